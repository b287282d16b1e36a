"""Calls, permits and threads that did not end, or not in time (review of 2026-11)."""

from __future__ import annotations

import gc
import socket
import threading
import weakref

import pytest

from claude_throttle import Closed, DeadlineExceeded, InvalidCall, QueueFull, Throttler
from claude_throttle.core.dispatch.call import Call
from tests.support.calls import MODEL, ask
from tests.support.inside import engine_of, lane_of, slots_in_use
from tests.support.waiting import wait_until


def ends(target, seconds=5.0):
    """Whether *target* returns or raises within so long; in a daemon thread."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_a_permit_dropped_after_close_does_not_take_another_permits_riders(fake, throttle):
    """A loop over `with permit() as permit` rebinds the name: the old one is collected then."""
    throttler = throttle(fake(), max_concurrency=1)

    def loop():
        for _ in range(2):
            with throttler.permit(model=MODEL) as permit:  # noqa: F841
                throttler.call(**ask())

    assert ends(loop)


def test_a_priority_that_is_no_number_does_not_leak_a_place(fake, throttle):
    """It is refused at submit; close() does not wait for it."""
    throttler = throttle(fake())
    with pytest.raises(InvalidCall):
        throttler.submit(**ask(priority="high"))
    assert ends(throttler.close, 3)


def test_close_from_a_done_callback_ends(fake, throttle):
    """The call whose callback it is has ended."""
    throttler = throttle(fake())
    closed = threading.Event()
    future = throttler.submit(**ask())

    def on_done(_future):
        throttler.close()
        closed.set()

    future.add_done_callback(on_done)
    assert closed.wait(3)


def test_close_from_a_listener_ends(fake):
    """The same for an event."""
    closed = threading.Event()
    server = fake()

    def listener(event):
        if type(event).__name__ == "CallSucceeded":
            throttler.close()
            closed.set()

    throttler = Throttler(api_key="k", base_url=server.url, rpm=1e6, on_event=listener)
    throttler.submit(**ask())
    assert closed.wait(3)


def test_a_callback_of_a_cancelled_call_finds_its_place_free(fake, throttle):
    """cancel() frees its place at once."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    first = throttler.submit(**ask())
    got = []

    def again(_future):
        try:
            got.append(throttler.submit(**ask("second")))
        except QueueFull as error:
            got.append(error)

    first.add_done_callback(again)
    first.cancel()
    assert not isinstance(got[0], QueueFull)


def test_close_with_a_timeout_ends_who_waits_for_a_permit(fake, throttle):
    """Also if no call is left."""
    throttler = throttle(fake(), max_concurrency=1)
    held = throttler.permit(model=MODEL)
    raised = threading.Event()

    def take():
        try:
            throttler.permit(model=MODEL)
        except Closed:
            raised.set()

    threading.Thread(target=take, daemon=True).start()
    wait_until(lambda: lane_of(throttler).backlog.waiting_locked())
    throttler.close(timeout=0.05)
    ok = raised.wait(2)
    held.close()
    assert ok


def test_an_idle_connection_keeps_no_call_alive(fake, throttle):
    """Body, future and answer go with the call."""
    throttler = throttle(fake())
    future = throttler.submit(**ask("x" * 1000))
    future.result(10)
    gone = weakref.ref(future)
    throttler.submit(**ask(model="other")).result(10)
    del future
    for _ in range(5):
        throttler.submit(**ask()).result(10)
        gc.collect()
    # Only one or two pooled connections, each used again: look for calls among all objects.
    gc.collect()
    alive = [o for o in gc.get_objects() if type(o) is Call]
    holders = [type(r).__name__ for c in alive for r in gc.get_referrers(c) if r is not alive]
    assert not alive, (len(alive), holders, gone())


def drip_server(head, seconds_per_byte=0.2):
    """Answers with *head*, then drips a body for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve(conn):
        with conn:
            conn.recv(65536)
            conn.sendall(head)
            try:
                while not stop.wait(seconds_per_byte):
                    conn.sendall(b" ")
            except OSError:
                pass

    def accept():
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(conn,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()

    def end():
        stop.set()
        listener.close()

    return f"http://127.0.0.1:{listener.getsockname()[1]}", end


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
    ids=["keep", "close", "http10"],
)
def test_a_deadline_ends_a_read_of_an_answer_that_closes_its_connection(head):
    """http.client lets go of such a socket as soon as it has the head."""
    url, end = drip_server(head)
    throttler = Throttler(api_key="k", base_url=url, rpm=1e6)
    try:
        future = throttler.submit(**ask(timeout=0.5))
        with pytest.raises(DeadlineExceeded):
            future.result(4)
    finally:
        end()
        throttler.close(0, True)


def test_a_deadline_ends_a_call_that_is_stuck_in_a_name_lookup(fake, throttle, monkeypatch):
    """Nothing reaches a thread in getaddrinfo; its caller must not wait for it."""
    server = fake()
    go = threading.Event()
    real = socket.getaddrinfo

    def slow(*args, **kwargs):
        go.wait(10)
        return real(*args, **kwargs)

    throttler = throttle(server)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    future = throttler.submit(**ask(timeout=0.3))
    try:
        with pytest.raises(DeadlineExceeded):
            future.result(4)
    finally:
        go.set()


def test_due_calls_do_not_wait_for_each_others_callbacks(fake, throttle):
    """A callback that waits holds its own thread only."""
    throttler = throttle(fake())
    throttler.pause()
    first = throttler.submit(**ask(timeout=0.3))
    second = throttler.submit(**ask(timeout=0.3))
    done = threading.Event()
    first.add_done_callback(lambda _f: (second.exception(), done.set()))
    ok = done.wait(3)
    second.cancel()
    assert ok


def test_map_yields_what_was_answered_before_a_bad_request(fake, throttle):
    """return_exceptions."""
    throttler = throttle(fake())
    got = list(throttler.map([ask("a"), {"max_tokens": 3}, ask("b")], return_exceptions=True))
    assert len(got) == 3


def test_riders_do_not_exceed_max_concurrency(fake, throttle):
    """A permit is one place, and carries one rider at a time."""
    server = fake(latency=0.02)
    throttler = throttle(server, max_concurrency=1)
    with throttler.permit(model=MODEL):
        for future in [throttler.submit(**ask()) for _ in range(8)]:
            future.result(20)
    assert max(arrival.in_flight for arrival in server.arrivals) == 1


def test_a_place_stays_taken_while_its_last_rider_is_out(fake, throttle):
    """The permit is closed before the call that rides on it has ended."""
    server = fake(latency=0.05)
    throttler = throttle(server, max_concurrency=1)
    with throttler.permit(model=MODEL):
        rider = throttler.submit(**ask())
    others = [throttler.submit(**ask()) for _ in range(3)]
    for future in (rider, *others):
        future.result(20)
    assert max(arrival.in_flight for arrival in server.arrivals) == 1
    wait_until(lambda: slots_in_use(throttler) == 0)


def test_a_pause_while_draining_does_not_stop_the_drain(fake, throttle):
    """Nobody would ever resume it."""
    throttler = throttle(fake(), rpm=120)
    futures = [throttler.submit(**ask()) for _ in range(3)]
    futures[0].result(5)
    closer = threading.Thread(target=throttler.close, daemon=True)
    closer.start()
    wait_until(lambda: engine_of(throttler).account.model_groups._closed)
    throttler.pause()
    closer.join(4)
    assert not closer.is_alive()
