"""What gunicorn's command line and environment say about its workers.

Gunicorn takes its options from its command line, from GUNICORN_CMD_ARGS and from
``gunicorn.conf.py``, in this order, and the number of workers from WEB_CONCURRENCY where none of
them has it (gunicorn 27.0's documentation, 2026-11). The configuration file is a program; it is
neither run nor read, so where there is one, only what goes before it is known.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional

#: Seconds after which gunicorn by default kills a sync worker that is busy with one request.
DEFAULT_TIMEOUT_SECONDS = 30.0


class Workers(NamedTuple):
    """Gunicorn's workers. What is not known has the value that gives no cause for a warning."""

    #: A worker reports that it is alive while a request of its waits: it uses threads or greenlets.
    alive_while_waiting: bool
    #: Seconds after which a worker that does not report is killed; 0 = never.
    timeout_seconds: float
    #: More than one process.
    several: bool


def gunicorn_workers(
    environ: Mapping[str, str] = os.environ, folder: Optional[Path] = None
) -> Optional[Workers]:
    """The workers that gunicorn, started in *folder*, would have; None if it is not in use.

    For system checks, which run outside of gunicorn: its command line is not known there, only its
    environment and its configuration file's existence.
    """
    options = _environment_options(environ)
    if not options and "WEB_CONCURRENCY" not in environ and find_spec("gunicorn") is None:
        return None
    file = (folder or Path()) / options.get("config", "gunicorn.conf.py")
    # With threads, "sync" means "gthread" (gunicorn.config.Config.worker_class).
    sync = options.get("worker_class", "sync") == "sync" and options.get("threads", 1) == 1
    return Workers(
        not sync or file.exists(),
        options.get("timeout", DEFAULT_TIMEOUT_SECONDS),
        _worker_count(environ, options) > 1,
    )


def visible_workers(
    environ: Mapping[str, str] = os.environ, argv: Optional[Sequence[str]] = None
) -> int:
    """The number of worker processes that this one belongs to; 1 if it cannot be known.

    For warnings at run time, in a worker: gunicorn's command line is this process's own.
    """
    program, *words = (sys.argv if argv is None else argv) or [""]
    typed = _parse(words) if "gunicorn" in os.path.basename(program) else {}
    return _worker_count(environ, {**_environment_options(environ), **typed})


def _worker_count(environ: Mapping[str, str], options: Mapping[str, Any]) -> int:
    fallback = environ.get("WEB_CONCURRENCY", "")
    return int(options.get("workers", fallback if fallback.isdecimal() else 1))


def _environment_options(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        return _parse(shlex.split(environ.get("GUNICORN_CMD_ARGS", "")))
    except ValueError:
        return {}  # gunicorn itself does not start with these


class _RaisingParser(argparse.ArgumentParser):
    """A parser that raises ValueError. argparse's own would print a message and end the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(words: Sequence[str]) -> dict[str, Any]:
    parser = _RaisingParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-c", "--config")
    parser.add_argument("-k", "--worker-class")
    parser.add_argument("-w", "--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-t", "--timeout", type=float)
    try:
        return vars(parser.parse_known_args(list(words))[0])
    except ValueError:
        return {}  # nor with these
