"""The collector and signal handlers come in the midst of a locked section (review of 2026-11)."""

from __future__ import annotations

import pytest

from tests.support.programs import run

GARBAGE = """
import time
sys.setswitchinterval(1e-5)
end = time.monotonic() + 1
rounds = [0, 0, 0]

class Box:
    pass

def work(n):
    while time.monotonic() < end:
        box = Box()
        box.answers = throttler.map([ask()] * 6, look_ahead=5)
        next(box.answers)
        box.me = box
        del box
        rounds[n] += 1

throttler.reconfigure(rpm=1e7, max_concurrency=None)
threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join(20)
print(all(rounds) and not any(thread.is_alive() for thread in threads))
"""

SIGNALS = """
import signal, time
throttler.reconfigure(rpm=60)
do = dict(
    stats=throttler.stats,
    pause=lambda: (throttler.pause(), throttler.resume()),
)[%r]
end = time.monotonic() + 0.7

def handler(*_):
    do()
    if time.monotonic() < end: signal.setitimer(signal.ITIMER_REAL, 0.002)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while time.monotonic() < end:
    throttler.submit(**ask()).cancel()
signal.setitimer(signal.ITIMER_REAL, 0)
print(True)
os._exit(0 if sys.stdout.flush() is None else 1)
"""


def test_a_generator_collected_under_a_lock_does_not_deadlock(fake):
    """map() in a reference cycle: its end cancels futures wherever the collector happens to run."""
    out, _ = run(fake(), GARBAGE)
    assert out.strip() == "True"


@pytest.mark.parametrize("what", ["stats", "pause"])
def test_a_signal_handler_may_look_and_steer(fake, what):
    """It runs between any two steps of the main thread, locked or not."""
    out, _ = run(fake(), SIGNALS % what)
    assert out.strip() == "True"
