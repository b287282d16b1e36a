"""What a fork leaves behind, and how the interpreter ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from claude_throttle.testing import Stall
from tests.support.programs import run, start
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until


def test_a_child_starts_afresh_and_the_parent_goes_on(fake):
    """The child's copies raise Forked at once; both get their own answers, thirty times over."""
    out, _ = run(
        fake(latency=0.01),
        """
bad = 0
for n in range(30):
    futures = [throttler.submit(**ask(f"parent {n}")) for _ in range(5)]
    pid = os.fork()
    if pid == 0:
        try:
            for future in futures:
                error = future.exception(0)
                if error is not None and not isinstance(error, Forked):
                    os._exit(3)
            answer = throttler.call(**ask(f"child {n}"), timeout=20)
            os._exit(0 if answer["content"][0]["text"] == f"echo: child {n}" else 4)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(5)
    for future in futures:
        bad += future.result(30)["content"][0]["text"] != f"echo: parent {n}"
    bad += os.waitpid(pid, 0)[1] != 0
print("bad", bad)
""",
    )
    assert out.strip() == "bad 0"


def test_a_forked_child_that_exits_normally_does_not_wait_for_the_parents_calls(fake):
    """Its exit hook knows whose calls they are."""
    server = fake()
    server.script(Stall())
    process = start(
        server,
        """
future = throttler.submit(**ask())
while not throttler.stats().in_flight: pass
pid = os.fork()
if pid == 0:
    sys.exit(0)
print(os.waitpid(pid, 0)[1], flush=True)
future.result(30)
""",
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "0"
    server.release_stalled()
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_everything_submitted_is_finished_at_a_normal_exit(fake):
    """As concurrent.futures does: the script ends, the answers still come."""
    server = fake(latency=0.05)
    out, err = run(
        server,
        """
def show(future):
    # In one piece: print() writes its newline apart, and these run in several threads.
    sys.stdout.write(future.result()["content"][0]["text"] + "\\n")
for n in range(10):
    throttler.submit(**ask(str(n))).add_done_callback(show)
""",
    )
    assert sorted(out.split()) == sorted(["echo:"] * 10 + [str(n) for n in range(10)])
    assert err == ""


def test_ctrl_c_cancels_what_is_pending(fake):
    """The exit hook finds a KeyboardInterrupt: nobody waits for the answers any more."""
    server = fake()
    server.script(Stall(), Stall())
    process = start(
        server,
        """
futures = [throttler.submit(**ask()) for n in range(100)]
futures[0].result()
""",
    )
    wait_until(lambda: len(server.arrivals) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert len(server.arrivals) == 2


def test_ctrl_c_in_call_ends_the_call(fake):
    """call() does not leave a read behind that nobody wants."""
    server = fake()
    server.script(Stall())
    process = start(
        server,
        """
try:
    throttler.call(**ask())
except KeyboardInterrupt:
    throttler.close()
    print("closed", dict(throttler.stats().failed))
""",
    )
    wait_until(lambda: server.arrivals)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out.strip() == "closed {'Closed': 1}", err


def test_ctrl_c_in_a_with_block_ends_promptly(fake):
    """Blocked reads included."""
    server = fake()
    server.script(Stall(), Stall())
    process = start(
        server,
        """
with throttler:
    for future in [throttler.submit(**ask()) for n in range(100)]:
        future.result()
""",
    )
    wait_until(lambda: len(server.arrivals) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert len(server.arrivals) == 2


def test_ctrl_c_ends_the_wait_at_exit(fake):
    """Even when the script had ended and only answers were waited for."""
    server = fake()
    server.script(Stall())
    process = start(server, "throttler.submit(**ask())\n")
    wait_until(lambda: server.arrivals)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("method", ["fork", only_thorough("spawn")])
def test_multiprocessing_children_have_a_throttler_of_their_own(fake, tmp_path, method):
    """A module-level throttler works under both start methods."""
    module = tmp_path / "work.py"
    module.write_text(
        "import os, multiprocessing, sys\n"
        "from claude_throttle import Throttler\n"
        "throttler = Throttler(api_key='k', base_url=os.environ['FAKE_URL'], rpm=6000)\n"
        "def ask(text):\n"
        "    return throttler.call(model='m', max_tokens=9, raw=True,\n"
        "        messages=[{'role': 'user', 'content': text}])['content'][0]['text']\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context('{method}')\n"
        "    with context.Pool(3) as pool:\n"
        "        print(pool.map(ask, ['a', 'b', 'c', 'd']))\n"
    )
    out = subprocess.run(
        [sys.executable, str(module)],
        env={**os.environ, "FAKE_URL": fake().url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.stdout.strip() == "['echo: a', 'echo: b', 'echo: c', 'echo: d']", out.stderr
