"""Programs that serve, for as long as a test lasts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from claude_throttle.testing import FakeClaude
from tests.support.programs import ROOT

LEASH = str(Path(__file__).with_name("leash.py"))

#: Seconds that the calls made at import take, so that they are out when the servers fork.
LATE_SECONDS = 0.6

#: Seconds that a call takes which Celery's own second of grace does not save.
LONG_SECONDS = 2.0

#: Seconds after which something hangs. On a busy machine a server needs many to start.
PATIENCE_SECONDS = 30.0


def latency(_random: Any, body: dict[str, Any]) -> float:
    """Of the fake, by what it is asked."""
    text = text_of(body)
    return {"late": LATE_SECONDS, "long": LONG_SECONDS}.get(text.split()[0], 0.02)


def text_of(body: dict[str, Any]) -> str:
    """The question."""
    text = body["messages"][-1]["content"]
    return text if isinstance(text, str) else str(text[-1]["text"])


def script(name: str) -> str:
    """A program of the environment the tests run in."""
    return str(Path(sys.executable).with_name(name))


def celery_worker(app: str, *options: str, processes: int = 2, level: str = "WARNING") -> list[str]:
    """The command of a prefork worker that talks to no other one."""
    command = [script("celery"), *options, f"--app={app}", "worker", "--pool=prefork"]
    command += [f"--concurrency={processes}", f"--loglevel={level}"]
    return [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Server:
    """A running program, and what it wrote down."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def noted(self) -> list[str]:
        """What its processes wrote down."""
        return _lines(self._folder / "notes")

    def reports(self) -> list[dict[str, Any]]:
        """What its tasks returned."""
        return [json.loads(line) for line in _lines(self._folder / "reports")]

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@contextlib.contextmanager
def running(
    command: Sequence[str], fake: FakeClaude, folder: Path, **environment: str
) -> Iterator[Server]:
    """A program that asks *fake*; killed at the end with all it has started."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", LEASH, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **_environment(fake, folder), **environment},
            start_new_session=True,
            close_fds=False,
        )
        stack.callback(_kill, process)
        server = Server(process, folder)
        try:
            yield server
        except BaseException:
            print((folder / "log").read_text(errors="replace"))
            raise


def _environment(fake: FakeClaude, folder: Path) -> dict[str, str]:
    return {
        "BUSY": "yes",
        "FAKE_URL": fake.url,
        "HOME": str(folder),  # where gunicorn puts a socket
        "RESUME_SECONDS": "1.5",  # long after the fork
        "NOTES": str(folder / "notes"),
        "REPORTS": str(folder / "reports"),
        "PATCH": "no",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket for a server to inherit: no port can be lost to another, no start be missed."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.set_inheritable(True)
        yield listener
