"""What an ended call leaves behind, and who may end a throttler (review of 2026-11)."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import Closed, Throttler
from tests.support.calls import MODEL, ask
from tests.support.inside import lane_of
from tests.support.programs import run
from tests.support.waiting import wait_until


def test_a_call_that_has_ended_is_freed_without_the_collector(fake):
    """Else large bodies pile up until the oldest generation is collected."""
    out, _ = run(
        fake(),
        """
import gc
from claude_throttle.core.dispatch.call import Call
gc.disable()
for n in range(50):
    throttler.call(**ask("x" * 1000))
print(sum(isinstance(o, Call) for o in gc.get_objects()))
""",
    )
    assert int(out) <= 3, out


def test_a_thread_with_the_ident_of_one_that_ended_does_not_ride(fake, throttle):
    """A permit may be handed to another thread; the first one's ident is then used again."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    held = []
    thread = threading.Thread(target=lambda: held.append(throttler.permit(model=MODEL)))
    thread.start()
    thread.join(10)
    futures = []
    other = threading.Thread(target=lambda: futures.append(throttler.submit(**ask())))
    other.start()
    other.join(10)
    assert futures[0].cancel(), "it has left, though the only permit is out"
    held[0].close()


def test_no_permit_is_granted_after_close(fake, throttle):
    """Who waits for one is refused."""
    throttler = throttle(fake(), max_concurrency=1)
    held = throttler.permit(model=MODEL)
    got = []

    def take():
        try:
            throttler.permit(model=MODEL).close()
            got.append("granted")
        except Closed:
            got.append("closed")

    thread = threading.Thread(target=take)
    thread.start()
    wait_until(lambda: lane_of(throttler).backlog.waiting_locked())
    throttler.close()
    held.close()
    thread.join(5)
    assert got == ["closed"]


def test_stopping_works_over_tls_in_tls(fake, throttle):
    """An https proxy: urllib3's SSLTransport has no shutdown()."""
    from urllib3.util.ssltransport import SSLTransport

    from claude_throttle.transport import connections

    conn = connections._OwnedHTTPSConnection("127.0.0.1")
    owner = object()
    conn.owner, conn.sock = owner, object.__new__(SSLTransport)
    conn._open_sock = conn.sock
    try:
        conn._hang_up(owner)
    finally:
        conn.sock = conn._open_sock = None


def test_close_from_a_listener_of_submit_ends(fake):
    """In the caller's own thread."""
    server = fake()

    def listener(event):
        if type(event).__name__ == "CallQueued":
            throttler.close()

    throttler = Throttler(api_key="k", base_url=server.url, rpm=1e6, on_event=listener)

    def submit():
        with pytest.raises(Closed):
            throttler.submit(**ask())

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    thread.join(4)
    assert not thread.is_alive()
    throttler.close()


def test_close_from_a_callback_of_cancel_ends(fake, throttle):
    """In the canceller's thread."""
    throttler = throttle(fake())
    throttler.pause()
    future = throttler.submit(**ask())
    future.add_done_callback(lambda _f: throttler.close())
    thread = threading.Thread(target=future.cancel, daemon=True)
    thread.start()
    thread.join(4)
    assert not thread.is_alive()
