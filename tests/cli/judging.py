"""What the tests look at: output files, and things that take a moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from claude_throttle.testing import FakeClaude

#: Calls that are no test of the pace.
FAST = ("--rpm", "60000", "--model", "m", "--max-tokens", "5")


def until(seen: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something another thread or process does."""
    never = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if seen():
            return
        never.wait(0.02)
    raise AssertionError("it did not happen")


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
