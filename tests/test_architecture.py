"""The house rules, read off the source: which file may import which library, how much fits where.

Who may import whom is import-linter's to check: see setup.cfg.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import inspect
import statistics
from pathlib import Path
from typing import NamedTuple

import pytest

import claude_throttle

ROOT = Path(claude_throttle.__file__).parent
TESTS = Path(__file__).parent
PACKAGE = "claude_throttle"

FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


# Not at import: every worker of the suite imports this, and one runs it.


@functools.cache
def tree_of(path):
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


class Import(NamedTuple):
    """One imported name: from where, what."""

    path: Path
    #: Dotted, absolute; of a name in a package it may be a module or not.
    name: str
    #: Only for the type checker.
    only_typing: bool

    @property
    def place(self):
        """The room the importing file is in; "" for the top level."""
        parts = self.path.relative_to(ROOT).parts
        return parts[0] if len(parts) > 1 else ""

    @property
    def file(self):
        return self.path.relative_to(ROOT).as_posix()

    @property
    def target(self):
        """The first part below our package; None for others' packages."""
        parts = self.name.split(".")
        return None if parts[0] != PACKAGE else (parts[1] if len(parts) > 1 else "")


def _imports_of(path):
    found = []
    _walk(tree_of(path), path, False, found)
    return found


def _walk(node, path, only_typing, found):
    if isinstance(node, ast.Import):
        found += [Import(path, alias.name, only_typing) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, path)
        found += [Import(path, f"{base}.{alias.name}", only_typing) for alias in node.names]
    for child in ast.iter_child_nodes(node):
        typing = isinstance(node, ast.If) and child in node.body and _is_type_checking(node.test)
        _walk(child, path, only_typing or typing, found)


def _is_type_checking(test):
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _absolute(node, path):
    if not node.level:
        return node.module
    package = [PACKAGE, *path.relative_to(ROOT).parts[: -node.level]]
    return ".".join([*package, *([node.module] if node.module else [])])


@functools.cache
def imports():
    """What the package imports, in all of its files."""
    return [found for path in FILES for found in _imports_of(path)]


def _wrong(imports):
    return sorted(f"{found.file} imports {found.name}" for found in imports)


def test_the_walk_sees_what_there_is():
    """A rule that looks at nothing holds always."""
    assert {"core", "transport", "metrics", "features", ""} <= {found.place for found in imports()}
    assert any(found.only_typing for found in imports())
    assert any(found.name == "requests" for found in imports())
    assert sum(found.target is not None for found in imports()) > 50


FLASK = ("extension", "configuration", "refusals", "command", "status_page")


@pytest.mark.parametrize(
    ("packages", "files"),
    [
        (
            {"requests", "urllib3"},
            {
                "transport/http.py",
                "transport/adapter.py",
                "transport/retry.py",
                "transport/connections.py",
                "features/interop/requests_adapter.py",
                "features/interop/requests_session.py",
                "transport/outcomes.py",
                "transport/response_stream.py",
                "cli/demo.py",
            },
        ),
        ({"anthropic"}, {"transport/sdk.py"}),
        ({"redis"}, {"features/sharing/stores/redis.py"}),
        ({"sqlite3"}, {"features/sharing/stores/sqlite.py"}),
        ({"tqdm"}, {"cli/progress.py"}),
        ({"celery"}, {"contrib/celery.py"}),
        ({"flask", "werkzeug", "jinja2", "click"}, {f"contrib/flask/{name}.py" for name in FLASK}),
        ({"django"}, {file for file in NAMES if file.startswith("contrib/django/")}),
        ({"gevent", "greenlet"}, set()),
        ({"time"}, {"core/threads/clock.py"}),
    ],
    ids=lambda value: "-".join(sorted(value)) if len(value) < 4 else "",
)
def test_a_library_is_imported_in_its_own_files_only(packages, files):
    """So that it can be replaced in one place. cli/demo.py sends calls without us, to compare."""
    mine = [i for i in imports() if i.name.split(".")[0] in packages and not i.only_typing]
    assert _wrong(i for i in mine if i.file not in files) == []


def test_the_sdk_is_never_imported_by_a_statement_of_ours():
    """Not even where it may be: it takes 0.5 to 1.9 s, so import_module() does it when needed."""
    assert (
        _wrong(i for i in imports() if i.name.startswith("anthropic") and not i.only_typing) == []
    )


def _calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func)


CLOCKS = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "time_ns", "localtime"}


def test_only_the_clock_reads_time():
    """Everything that computes takes now as an argument."""
    wrong = [
        f"{path.name}: {call}()"
        for path in FILES
        if path.name != "clock.py"
        for call in _calls(tree_of(path))
        if call.split(".")[0] in ("time", "datetime", "date") and call.split(".")[-1] in CLOCKS
    ]
    assert wrong == []


def test_no_module_imports_another_in_a_circle():
    """Neither for typing nor late: one of both could not be understood without the other."""
    modules = {".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]) for path in FILES}
    graph = {module: set() for module in modules}
    for one in imports():
        module = ".".join([PACKAGE, *one.path.relative_to(ROOT).with_suffix("").parts])
        # The name itself is a module, or a name in one.
        graph[module] |= {one.name, one.name.rpartition(".")[0]} & modules - {module}
    graphlib.TopologicalSorter(graph).prepare()


def _is_named_tuple(node):
    return isinstance(node, ast.ClassDef) and any(
        getattr(base, "id", "") == "NamedTuple" for base in node.bases
    )


def _made_by_new(tree):
    """The class and the values of each ``_new(Class, (…))``, where all of them stand there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_new":
            kind, values = node.args
            if isinstance(values, ast.Tuple) and not any(
                isinstance(value, ast.Starred) for value in values.elts
            ):
                yield kind.id, len(values.elts)


def test_what_is_made_past_a_named_tuples_constructor_has_all_its_fields():
    """``tuple.__new__`` takes any number: a field that is added later would be missing there."""
    classes = {n.name: n for path in FILES for n in ast.walk(tree_of(path)) if _is_named_tuple(n)}
    fields = {
        name: sum(isinstance(line, ast.AnnAssign) for line in node.body)
        for name, node in classes.items()
    }
    made = [each for path in FILES for each in _made_by_new(tree_of(path))]
    assert len(made) > 10
    assert [(kind, count) for kind, count in made if fields[kind] != count] == []


def test_nobody_sleeps():
    """Neither the package nor its tests: who waits, waits on something that can be notified."""
    paths = [p for p in (*FILES, *TESTS.rglob("*.py")) if "time.sleep" in p.read_text("utf-8")]
    sleeps = [p.name for p in paths for call in _calls(tree_of(p)) if call == "time.sleep"]
    names = [f.path.name for f in imports() if f.name == "time.sleep"]
    assert sleeps + names == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_named_and_explained(path):
    """It says what it is, and has a name that says more than "utils"."""
    assert ast.get_docstring(tree_of(path)) or path.name == "_version.py"
    shelves = ("util", "utils", "helper", "helpers", "common", "manager", "misc", "base")
    assert path.stem.strip("_") not in shelves


def _functions():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for path in FILES for n in ast.walk(tree_of(path)) if isinstance(n, kinds)]


def test_functions_are_short():
    """Half of them take less than ten lines, the signature and its docstring included."""
    lengths = [node.end_lineno - node.lineno + 1 for node in _functions()]
    assert statistics.median(lengths) < 10


PUBLIC = sorted(set(claude_throttle.__all__) - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_there_and_explained(name):
    """Importable, with a docstring of its own."""
    found = getattr(claude_throttle, name)
    if inspect.isclass(found) or inspect.isroutine(found):
        assert found.__doc__
        assert not found.__doc__.startswith(f"{name}("), "made by dataclass, not by us"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_explained(name):
    """Each of Throttler's, Permit's and the others', as a newcomer would ask help() for it."""
    found = getattr(claude_throttle, name)
    if not inspect.isclass(found) or issubclass(found, Exception):
        return
    methods = {k: v for k, v in vars(found).items() if not k.startswith("_")}
    bare = [k for k, v in methods.items() if callable(v) and not inspect.getdoc(getattr(found, k))]
    assert bare == []


def test_the_shop_window_lists_everything_once():
    """__all__ has no name twice, and none that a package import does not give."""
    assert len(claude_throttle.__all__) == len(set(claude_throttle.__all__))
    for package in (PACKAGE, f"{PACKAGE}.testing"):
        module = importlib.import_module(package)
        assert [n for n in module.__all__ if not hasattr(module, n)] == []
