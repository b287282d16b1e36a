"""What gunicorn was told, as far as it can be seen from here: read, never executed.

That is where gunicorn looks for it: what was typed at its start (seen by itself and its workers
only), GUNICORN_CMD_ARGS, ``gunicorn.conf.py`` in the current directory, WEB_CONCURRENCY (gunicorn
27.0's documentation, 2026-11).
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional

#: Seconds after which gunicorn kills a sync worker that still answers one request: its default.
KILLED_AFTER_SECONDS = 30.0

#: Where a name is given something that is no literal.
UNKNOWN = object()


class Workers(NamedTuple):
    """What is known of them; what is not is taken for the best."""

    #: A request that waits keeps no worker from its signs of life: threads, or greenlets.
    wait_apart: bool
    #: After which a worker without signs of life is killed; 0 = never.
    timeout_seconds: float
    #: More than one process.
    several: bool


def gunicorn_workers(
    environ: Mapping[str, str] = os.environ, folder: Optional[Path] = None
) -> Optional[Workers]:
    """None where there is no gunicorn, and nothing that tells it anything."""
    told = _told(environ, folder, ())
    if not told and find_spec("gunicorn") is None:
        return None
    return Workers(_wait_apart(told), _timeout(told), _count(told) > 1)


def visible_workers(
    environ: Mapping[str, str] = os.environ, argv: Optional[Sequence[str]] = None
) -> int:
    """How many processes this one was told to be one of; 1 where nothing can be seen.

    To others than gunicorn its configuration file means nothing.
    """
    program, *typed = (sys.argv if argv is None else argv) or [""]
    if "gunicorn" in os.path.basename(program):
        return _count(_told(environ, None, typed))
    return _count({**_concurrency(environ), **_of_the_environment(environ)})


def _told(
    environ: Mapping[str, str], folder: Optional[Path], typed: Sequence[str]
) -> dict[str, Any]:
    arguments = {**_of_the_environment(environ), **_arguments(typed)}
    config = (folder or Path()) / (arguments.pop("config", None) or "gunicorn.conf.py")
    return {**_concurrency(environ), **_assignments(config), **arguments}


def _of_the_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        return _arguments(shlex.split(environ.get("GUNICORN_CMD_ARGS", "")))
    except ValueError:
        return {}  # gunicorn itself will not start


class _Quiet(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    parser = _Quiet(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-c", "--config")
    parser.add_argument("-k", "--worker-class")
    parser.add_argument("-w", "--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-t", "--timeout", type=float)
    try:
        return vars(parser.parse_known_args(list(words))[0])
    except ValueError:
        return {}  # nor with these


def _concurrency(environ: Mapping[str, str]) -> dict[str, Any]:
    told = environ.get("WEB_CONCURRENCY", "")
    return {"workers": int(told)} if told.isdecimal() else {}


def _assignments(path: Path) -> dict[str, Any]:
    """The names a module sets, with their values."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return {}
    names = ("worker_class", "workers", "threads", "timeout")
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            told = [target.id for target in targets if isinstance(target, ast.Name)]
            found.update((name, _value(node.value)) for name in told if name in names)
    return found


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        # As gunicorn's documentation has it: multiprocessing.cpu_count() * 2 + 1.
        return 2 if "cpu_count" in ast.unparse(node) else UNKNOWN


def _wait_apart(told: Mapping[str, Any]) -> bool:
    kind, threads = told.get("worker_class", "sync"), told.get("threads", 1)
    # With threads, "sync" means "gthread" (gunicorn.config.Config.worker_class).
    return kind != "sync" or not isinstance(threads, int) or threads > 1


def _timeout(told: Mapping[str, Any]) -> float:
    seconds = told.get("timeout", KILLED_AFTER_SECONDS)
    try:
        return float(seconds) if isinstance(seconds, (int, float)) else 0.0
    except OverflowError:
        return math.inf


def _count(told: Mapping[str, Any]) -> int:
    workers = told.get("workers", 1)
    return workers if isinstance(workers, int) else 1
