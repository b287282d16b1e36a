"""A queue for one reader, whose writers take no lock."""

from __future__ import annotations

import gc
import queue
import threading

import pytest

from claude_throttle.core.threads.thread_pool import Mailbox


def test_what_is_put_comes_in_order():
    """And then nothing."""
    box = Mailbox()
    with pytest.raises(queue.Empty):
        box.get(0)
    for n in range(3):
        box.put(n)
    assert [box.get(0) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(queue.Empty):
        box.get(0.01)
    box.put(3)
    assert box.get(10) == 3


def test_many_writers_lose_nothing():
    """Each one's own in its order."""
    box, begin = Mailbox(), threading.Barrier(5)

    def write(writer):
        begin.wait(10)
        for n in range(2000):
            box.put((writer, n))

    writers = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for writer in writers:
        writer.start()
    begin.wait(10)
    got = [box.get(10) for _ in range(8000)]
    for writer in range(4):
        assert [n for w, n in got if w == writer] == list(range(2000))
    for thread in writers:
        thread.join()
    with pytest.raises(queue.Empty):
        box.get(0)


def test_the_garbage_collector_may_put_while_the_reader_reads():
    """In the very thread that reads."""

    class Left:
        def __del__(self):
            box.put("left")

    box = Mailbox()
    gc.collect()
    for _ in range(20):
        left = Left()
        left.itself = left
        del left
        box.put("put")
        gc.collect(0)  # of all that tests have loaded it would take a while
        assert {box.get(1), box.get(1)} == {"put", "left"}


def test_a_reader_that_waits_is_woken():
    """At once, by a put from another thread."""
    box, got = Mailbox(), []
    reader = threading.Thread(target=lambda: got.append(box.get(60)))
    reader.start()
    box.put("it")
    reader.join(10)
    assert got == ["it"]
