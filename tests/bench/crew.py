"""Several processes with a throttler each, that share one quota.

``python -m tests.bench.crew '{"url": …, "shared": …, "calls": 100}'`` is one of them. It says
``ready``; at a line on stdin it submits its calls, each with a nonce of its own, and, when all have
ended, prints what became of them. Ends with stdin.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

from tests.bench.server import start
from tests.bench.work import ask, throttler

#: What is the member's own; all else it is given are settings of its throttler.
OURS = ("url", "calls", "name", "skew_seconds", "max_tokens")


class Member:
    """One process; see :class:`Crew`."""

    def __init__(self, **options):
        self.process = start("tests.bench.crew", options)
        self.killed = False

    def wait_until_ready(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", line

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self):
        """What became of its calls: see :func:`_work`."""
        return json.loads(self.process.stdout.readline())

    def kill(self):
        """With SIGKILL."""
        self.killed = True
        self.process.kill()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()


class Crew:
    """*count* of them, ready to go; a context manager. Each has *calls* to make."""

    def __init__(self, count, skews=(), **options):
        skews = skews or [0] * count
        self.members = [
            Member(name=f"{n}", skew_seconds=skew, **options)
            for n, skew in zip(range(count), skews)
        ]

    def __enter__(self):
        for member in self.members:
            member.wait_until_ready()
        return self

    def __exit__(self, *_problem):
        for member in self.members:
            member.process.poll()
            if member.process.returncode is None and _problem[0] is not None:
                member.signal(signal.SIGCONT)
                member.kill()
            member.end()

    def go(self):
        for member in self.members:
            member.go()

    def results(self):
        """Of those that are still there, in their order."""
        return [member.result() for member in self.members if not member.killed]


def failed(results):
    """Errors by name, over all of them."""
    errors = Counter()
    for result in results:
        errors.update(result["errors"])
    return errors


def main():
    options = json.loads(sys.argv[1])
    ours = {name: options.pop(name) for name in OURS if name in options}
    extra = {}
    if ours.get("skew_seconds"):
        extra["clock"] = _skewed(ours["skew_seconds"])
    events = []
    throttle = throttler(ours["url"], on_event=events.append, **extra, **options)
    throttle.limits()  # what has to be loaded is loaded
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_work(throttle, ours, events)), flush=True)
    sys.stdin.readline()
    throttle.close()


def _skewed(seconds):
    from claude_throttle.core.threads.clock import SystemClock

    class Skewed(SystemClock):
        """A machine whose clocks are wrong."""

        def monotonic(self):
            return time.monotonic() + seconds

        def wall(self):
            return time.time() + seconds

    return Skewed()


def _work(throttle, ours, events):
    began = time.monotonic()
    futures, longest = [], 0.0
    for number in range(ours["calls"]):
        before = time.monotonic()
        call = ask(f"{ours['name']}-{number}", ours.get("max_tokens", 50))
        futures.append(throttle.submit(raw=True, **call))
        longest = max(longest, time.monotonic() - before)
    errors, strange = Counter(), 0
    for number, future in enumerate(futures):
        error = future.exception()
        if error is not None:
            errors[type(error).__name__] += 1
        elif f"{ours['name']}-{number}" not in json.dumps(future.result()["content"]):
            strange += 1
    return {
        "answered": len(futures) - sum(errors.values()),
        "errors": errors,
        "others_answers": strange,
        "longest_submit": longest,
        "seconds": time.monotonic() - began,
        "events": Counter(type(event).__name__ for event in events),
    }


if __name__ == "__main__":
    main()
