"""A server, and two ways to run the command against it: in this process, or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_throttle.testing import FakeClaude
from tests.support.command import Start
from tests.support.programs import ROOT


@pytest.fixture
def fake() -> Iterator[FakeClaude]:
    """Without quotas: what is judged here is the command, not the pace."""
    with FakeClaude() as server:
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where answers go."""
    return tmp_path / "out.jsonl"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CLAUDE_THROTTLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-key")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """A suite in the background of a script has SIGINT ignored, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: Any, code: str = "", **how: Any) -> subprocess.Popen[bytes]:
        program = ["-c", code] if code else ["-m", "claude_throttle"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *program, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
            **{**pipes, **how},
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()
