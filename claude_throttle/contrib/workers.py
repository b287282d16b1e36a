"""How many worker processes a web server was told to have, as far as one of them can see."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Optional

_WORKERS = re.compile(r"(?<!\S)(?:-w|--workers)[\s=]*(\d+)")


def visible_workers(
    environ: Mapping[str, str] = os.environ, argv: Optional[Sequence[str]] = None
) -> int:
    """What gunicorn's arguments, GUNICORN_CMD_ARGS or WEB_CONCURRENCY say; 1 if none does.

    The first that does, as gunicorn has it. A number in its configuration file is not seen.
    """
    argv = sys.argv if argv is None else argv
    typed = " ".join(argv[1:]) if argv and "gunicorn" in os.path.basename(argv[0]) else ""
    for text in (typed, environ.get("GUNICORN_CMD_ARGS", "")):
        told = _WORKERS.findall(text)
        if told:
            return int(told[-1])
    number = environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else 1
