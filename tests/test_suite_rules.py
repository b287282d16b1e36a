"""The rules for the tests themselves: what they may import from one another."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


@functools.cache
def tree_of(path):
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported_by(path):
    """The names of all modules, or of what is in them, that a file of ours imports."""
    package = ("tests", *path.relative_to(TESTS).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _imports_among_tests():
    """Pairs of a file and a name under ``tests`` that it imports."""
    return [
        (path.relative_to(TESTS).as_posix(), name)
        for path in FILES
        for name in _imported_by(path)
        if name.startswith("tests.")
    ]


def test_no_test_module_imports_another_and_none_imports_a_conftest():
    """What two of them need is in tests/support; a conftest.py holds fixtures only."""
    found = _imports_among_tests()
    assert len(found) > 100, "a rule that looks at nothing holds always"
    wrong = [
        f"{file} imports {name}"
        for file, name in found
        if any(part.startswith("test_") or part == "conftest" for part in name.split(".")[1:-1])
    ]
    assert wrong == []


def test_support_imports_no_other_tests():
    """But for the scenes of the simulation: else a folder's tests could not be read alone."""
    allowed = ("tests.support", "tests.simulation.scenes")
    wrong = [
        f"{file} imports {name}"
        for file, name in _imports_among_tests()
        if file.startswith("support/") and not name.startswith(allowed)
    ]
    assert wrong == []


#: Private by their names, public by their documentation.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_field_defaults", "_make"}
DOCUMENTED |= {"_exit", "_current_frames", "_getframe", "_request_id", "_get_current_object"}

#: File -> how often it touches a private member of something. Lower a number when a touch has
#: gone; raise none: what many tests need is in support/inside.py. Where the count is high the
#: member is of the very module that is tested.
ALLOWED_TOUCHES = {
    "batches/test_faults.py": 3,
    "batches/test_waiting.py": 10,
    "bench/memory.py": 1,
    "cli/test_run_batch.py": 3,
    "flow/test_cancel_and_deadline.py": 1,
    "flow/test_close.py": 1,
    "flow/test_fairness.py": 12,
    "flow/test_leaving_at_once.py": 3,
    "flow/test_permit_hearing.py": 2,
    "flow/test_settlement.py": 4,
    "flow/test_suspension.py": 1,
    "metrics/test_quantiles.py": 2,
    "official_sdk/test_adapter.py": 1,
    "official_sdk/test_middleware.py": 2,
    "official_sdk/test_middleware_streams.py": 1,
    "pacing/test_circuit.py": 1,
    "pacing/test_estimate.py": 2,
    "pacing/test_estimate_calibrate.py": 1,
    "pacing/test_lanes.py": 1,
    "regressions/test_ctrl_c_anywhere.py": 3,
    "regressions/test_ctrl_c_in_submit.py": 2,
    "regressions/test_ends_and_waits.py": 1,
    "regressions/test_forks_and_threads.py": 9,
    "regressions/test_what_is_kept_alive.py": 4,
    "sharing/test_coordinator.py": 4,
    "sharing/test_shared_pacer.py": 7,
    "status/test_fleet_cache.py": 1,
    "status/test_history.py": 3,
    "stores/test_redis_kept.py": 3,
    "stores/test_redis_servers.py": 3,
    "stores/test_sqlite_processes.py": 5,
    "streaming/test_stream_errors.py": 4,
    "streaming/test_stream_life.py": 5,
    "test_public_surface.py": 2,
    "testing_room/test_fault_proxy.py": 1,
    "transport/test_cold_start.py": 5,
    "transport/test_sdk.py": 3,
    "transport/test_sdk_import.py": 1,
    "transport/test_usage_meter.py": 1,
    "transport/test_wire.py": 2,
}


def _private_touches(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not (own or node.attr.startswith("__") or node.attr in DOCUMENTED):
                yield ast.unparse(node)


def test_private_members_are_touched_ever_less():
    """A test that knows the inside of another module breaks when that module is made better."""
    touched = {
        path.relative_to(TESTS).as_posix(): list(_private_touches(path))
        for path in FILES
        if "support" not in path.relative_to(TESTS).parts
    }
    more = {k: v for k, v in touched.items() if len(v) > ALLOWED_TOUCHES.get(k, 0)}
    assert more == {}
