"""The other end of :mod:`tests.bench.serve`: starts it, asks it for its log, ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

#: Where ``tests`` can be imported from.
ROOT = Path(__file__).resolve().parents[2]


def start(module, options):
    """A process of ours that takes *options* as JSON, and lines on stdin."""
    command = [sys.executable, "-m", module, json.dumps(options)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


class Server:
    """A running fake API; use it as a context manager."""

    def __init__(self, **options):
        self._process = start("tests.bench.serve", options)
        self.url = self._process.stdout.readline().strip()

    def arrivals(self):
        """Its log, in order of arrival; instants are those of ``time.monotonic`` here, too."""
        return [SimpleNamespace(**seen) for seen in self._ask("")]

    def other_arrivals(self):
        """The same of ``count_tokens`` and ``rate_limits``."""
        return [SimpleNamespace(**seen) for seen in self._ask({"tell": "other_arrivals"})]

    def others_taken(self):
        """How many requests of somebody else (``others_rpm``) were let in so far."""
        return self._ask({"tell": "others_taken"})

    def change(self, **changes):
        """While it runs: ``limits={...}``, ``faults={...}``, ``outage=True`` or a reply's name."""
        if self._ask(changes) != "ok":
            raise AssertionError("the server has not changed")

    def _ask(self, line):
        self._process.stdin.write((json.dumps(line) if line else "") + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict):
            raise ValueError(f"the server cannot do {line}: {answer['error']}")
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_problem):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
