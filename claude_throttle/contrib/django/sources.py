"""Whether a secret stands in the source of the settings: the text itself, not the way it came."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from django.conf import settings

#: Characters of the shortest text that is taken for a secret: "test" may stand there for a reason.
LEAST_LENGTH = 16


def where_written(secret: Any) -> Optional[str]:
    """File and line of a string that is *secret*, in the modules the settings are made of.

    Those are the settings module and what was imported from its package. A secret that came from
    the environment, a file or a secret store is no string there.
    """
    if not isinstance(secret, str) or len(secret.strip()) < LEAST_LENGTH:
        return None
    for path in _sources():
        line = _line_of(secret.strip(), path)
        if line is not None:
            return f"{path}, line {line}"
    return None


def _sources() -> Iterator[Path]:
    # None where settings.configure() was called.
    name = settings.SETTINGS_MODULE or "__main__"
    package = name.rpartition(".")[0]
    for other, module in sorted(sys.modules.items()):
        if other == name or (package and (other == package or other.startswith(f"{package}."))):
            yield from _source(module)


def _source(module: ModuleType) -> Iterator[Path]:
    file = getattr(module, "__file__", None)
    if file is not None and file.endswith(".py"):
        yield Path(file)


def _line_of(secret: str, path: Path) -> Optional[int]:
    try:
        source = path.read_text(encoding="utf-8")
        if secret not in source:
            return None
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return None
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value.strip() == secret:
            return int(node.lineno)  # type: ignore[attr-defined]
    return None
