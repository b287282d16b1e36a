"""Input files for the command, and what its output files hold."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from claude_throttle.testing import FakeClaude

#: How the fixture ``start`` starts the command.
Start = Callable[..., "subprocess.Popen[bytes]"]

#: Options of calls whose pace is not what is tested.
FAST = ("--rpm", "60000", "--model", "m", "--max-tokens", "5")


def prompts(path: Path, texts: Sequence[Any]) -> Path:
    """An input file with these values, one a line."""
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return path


def results(path: Path) -> list[dict[str, Any]]:
    """Every whole line of an output."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def by_id(path: Path) -> dict[str, dict[str, Any]]:
    """The newest result of each id."""
    return {line["custom_id"]: line["result"] for line in results(path)}


def text_of(result: dict[str, Any]) -> str:
    """The answer's text: the fake echoes the prompt."""
    text: str = result["message"]["content"][0]["text"]
    return text.replace("echo: ", "")


def nonces(fake: FakeClaude) -> list[str]:
    """The prompts that reached the server."""
    return [arrival.nonce for arrival in fake.arrivals]
