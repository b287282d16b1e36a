"""In a fresh clone each worker of the suite would compile all of it: here each takes its share.

To rewrite the asserts of all test modules takes five seconds of CPU. Without this file the suite
does the same, only later.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def compile_for_all():
    """Have pytest and the programs that tests start keep what they compile, whatever was asked.

    Hundreds of programs are started here, and each would compile the whole package again.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def compile_share(config):
    """Rewrite this worker's share of the test modules, if all are to be run; for all workers."""
    worker = getattr(config, "workerinput", None)
    if worker is None or [Path(arg).resolve() for arg in config.args] != [TESTS]:
        return
    number, workers = int(worker["workerid"][2:]), int(worker["workercount"])
    # pytest's own, and no promise of it.
    with contextlib.suppress(ImportError, AttributeError, TypeError, OSError):
        for path in sorted(TESTS.rglob("test_*.py"))[number::workers]:
            _compile(path, config)


def _compile(path, config):
    from _pytest.assertion import rewrite
    from _pytest.assertion.rewrite import assertstate_key

    folder, trace = rewrite.get_cache_dir(path), config.stash[assertstate_key]
    compiled = folder / f"{path.stem}{rewrite.PYC_TAIL}"
    if rewrite._read_pyc(path, compiled) is None and rewrite.try_makedirs(folder):
        told, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(trace, code, told, compiled)
