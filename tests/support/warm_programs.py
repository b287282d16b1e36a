"""Programs in processes that have imported the SDK already: that alone takes one to two seconds.

For programs whose output counts. What is about imports, about forks or about the interpreter's end
runs in a Python of its own: see programs.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.support.programs import ROOT

#: Forks for each program it is told of; the child runs it and ends as any interpreter does.
PARENT = """
import json, os, sys

import anthropic
import claude_throttle
from claude_throttle import Throttler


def next_program():
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            return told
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)
    return None


import gc; gc.collect(); gc.freeze()
told = next_program()
if told is not None:
    for number, path, flags in zip(
        (0, 1, 2), told["streams"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
    ):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    sys.path[:] = [*told["paths"], *sys.path]
    sys.argv = told["argv"]
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    program = told["program"]
    del told, number, path, flags, file, next_program
    exec(compile(program, sys.argv[0], "exec"), names)
"""


class Done(NamedTuple):
    """How a program ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class WarmParent:
    """A process that forks for each program; one for each worker of the suite."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            cwd=ROOT,
            env={
                **os.environ,
                # Beside the libraries that the run itself was given: .ci/run names some so.
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program, *arguments, folder, environment, given="", paths=(), timeout=60):
        """Run the text *program* as ``python -c`` would, with *folder* as its directory."""
        with tempfile.TemporaryDirectory() as own:
            streams = [Path(own) / name for name in ("in", "out", "err")]
            for stream, text in zip(streams, (given, "", "")):
                stream.write_text(text, encoding="utf-8")
            told = {
                "program": program,
                "argv": ["-c", *arguments],
                "folder": str(folder),
                "environment": environment,
                "paths": [str(path) for path in paths],
                "streams": [str(stream) for stream in streams],
            }
            code = self._send(json.dumps(told), timeout)
            return Done(code, *(stream.read_text(encoding="utf-8") for stream in streams[1:]))

    def _send(self, told, timeout):
        self._process.stdin.write(told + "\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not readable:
            self.close()
            raise AssertionError(f"the program still ran after {timeout} s")
        return int(self._process.stdout.readline())

    def close(self):
        """End it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
