"""Forks again and again while four threads, or greenlets, are busy. Notes what went wrong."""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import threading

from tests.servers.asking import ask, echo, look, note, throttler

#: Seconds after which a child hangs, and says where.
CHILD_SECONDS = 15

shared = throttler(max_concurrency=3)
stopping = threading.Event()
#: What each busy thread waits for, for the children to look at.
pending = {}


def be_busy(name):
    """Ask, again and again."""
    for n in itertools.count():
        if stopping.is_set():
            return
        text = f"thread {name} {n}"
        pending[name] = shared.submit(**ask(text))
        if echo(pending[name].result(CHILD_SECONDS)) != text:
            note(f"{text}: a wrong answer")


def be_a_child(n, inherited):
    """Use the copy of what was busy; never return."""
    faulthandler.dump_traceback_later(CHILD_SECONDS, exit=True)
    try:
        for future in inherited:
            if look(future) not in ("Forked", "NoneType"):
                note(f"child {n}: a copy {look(future)}")
        answer = echo(shared.call(**ask(f"child {n}")))
        if answer != f"child {n}":
            note(f"child {n}: got {answer}")
    except BaseException as error:
        note(f"child {n}: {error!r}")
        os._exit(1)
    os._exit(0)


def main(forks):
    """All of it; exits with what is wrong."""
    threads = [threading.Thread(target=be_busy, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for n in range(forks):
        inherited = list(pending.values())
        pid = os.fork()
        if pid == 0:
            be_a_child(n, inherited)
        # One by one, and at last: the parent goes on meanwhile.
        _, status = os.waitpid(pid, 0)
        if status:
            note(f"child {n} ended with {status}")
    stopping.set()
    for thread in threads:
        thread.join(CHILD_SECONDS)
        if thread.is_alive():
            note(f"{thread.name} hangs")


if __name__ == "__main__":
    main(int(sys.argv[1]))
