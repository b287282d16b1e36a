"""The other end of :mod:`tests.bench.serve`: starts it, asks it for its log, ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

#: Where ``tests`` can be imported from.
ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A running fake API; use it as a context manager."""

    def __init__(self, **options):
        command = [sys.executable, "-m", "tests.bench.serve", json.dumps(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.url = self._process.stdout.readline().strip()

    def arrivals(self):
        """Its log, in order of arrival; instants are those of ``time.monotonic`` here, too."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [SimpleNamespace(**seen) for seen in json.loads(self._process.stdout.readline())]

    def __enter__(self):
        return self

    def __exit__(self, *_problem):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
