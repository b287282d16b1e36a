"""Servers and networks that refuse, stall, cut and lie; nothing is paid for twice."""

from __future__ import annotations

import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import anthropic
import pytest

from claude_throttle import (
    AccountSuspended,
    BatchIncomplete,
    BrokenAnswer,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    Throttler,
)
from claude_throttle.features.batches.upload import BatchBounds
from claude_throttle.testing import Garbage, Redirect, Reply, Reset, Stall
from claude_throttle.testing.fault_proxy import FaultProxy
from tests.support.batches import asked, bounded, pairs, text_of
from tests.support.waiting import wait_until

KEY = "sk-ant-test-key-0000"


def creations(server):
    return asked(server).count(("POST", "batches"))


@pytest.mark.parametrize("refusal", [Reply(429, {"retry-after": "1"}), Reply(529)])
def test_a_creation_that_surely_did_nothing_is_sent_again(fake, throttle, refusal):
    """A 429, a 529: refused before anything was done."""
    server = fake()
    server.batches.script(refusal)
    handle = throttle(server).batches.submit(pairs(2), raw=True)
    assert len(handle.result(timeout=10)) == 2
    assert (creations(server), len(server.batches.created)) == (2, 1)


@pytest.mark.parametrize(
    "answer",
    [
        *(Reset(), Garbage(), Reply(200, body=b'{"id": 7}'), Reply(201, body=b"{}")),
        *(Reply(status) for status in (408, 409, 499, 500, 503, 504)),
        *(Reply(status, {"x-should-retry": "true"}) for status in (400, 413)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("made", [True, False])
def test_a_creation_whose_answer_was_lost_is_never_sent_again(fake, throttle, answer, made):
    """It may be there, and would be billed twice; recent() shows it, if so."""
    server = fake()
    server.batches.script(answer, carried_out=made)
    throttler = throttle(server)
    with pytest.raises(BatchIncomplete) as caught:
        throttler.batches.submit(pairs(2))
    assert (caught.value.ids, caught.value.unsure) == ((), True)
    assert "batches.recent()" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert creations(server) == 1
    assert len(throttler.batches.recent()) == made
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.ids, again.unsure, str(again)) == ((), True, str(caught.value))


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Reply(400, {"x-should-retry": "false"}), anthropic.BadRequestError),
        (Reply(403), anthropic.PermissionDeniedError),
        (Garbage(b"<html>too large</html>", 413), anthropic.RequestTooLargeError)
        if hasattr(anthropic, "RequestTooLargeError")
        else (Garbage(b"<html>too large</html>", 413), anthropic.APIStatusError),
    ],
    ids=repr,
)
def test_a_refusal_of_the_first_batch_is_the_sdks_exception(fake, throttle, refusal, kind):
    """Nothing was created, so there is nothing else to tell."""
    server = fake()
    server.batches.script(refusal)
    with pytest.raises(kind) as caught:
        throttle(server).batches.submit(pairs(2))
    assert creations(server) == 1
    assert "prompt" not in str(caught.value)
    assert KEY not in repr(vars(caught.value))
    pickle.loads(pickle.dumps(caught.value))


def test_a_refusal_of_a_later_batch_tells_what_was_created(fake, throttle):
    """The ids are worth money."""
    server = fake()
    batches = bounded(throttle(server), BatchBounds(requests=1))

    def first_is_made(batch_id, _names):
        if batch_id is not None:
            server.batches.script(Reply(400, {"x-should-retry": "false"}, message="no more"))

    with pytest.raises(BatchIncomplete, match="1 of 3 batches were created") as caught:
        batches.submit(pairs(3), on_create=first_is_made)
    assert isinstance(caught.value.__cause__, anthropic.BadRequestError)
    assert not caught.value.unsure
    (result,) = batches.resume(caught.value.ids, raw=True).result(timeout=10)
    assert text_of(result) == "prompt 0"


def test_an_error_of_the_callers_after_a_creation_keeps_its_id(fake, throttle):
    """As when the disk that should hold the ids is full."""
    server = fake()

    def full(batch_id, _names):
        if batch_id is not None:
            raise OSError("no space left")

    with pytest.raises(BatchIncomplete) as caught:
        throttle(server).batches.submit(pairs(1), on_create=full)
    assert len(caught.value.ids) == 1
    assert isinstance(caught.value.__cause__, OSError)


def test_ctrl_c_between_two_batches_leaves_their_ids_in_the_log(fake, throttle, caplog):
    """Nobody gets a handle then."""
    server = fake()
    batches = bounded(throttle(server), BatchBounds(requests=1))

    def interrupted(_batch_id, names):
        if names == ["r1"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batches.submit(pairs(3), on_create=interrupted)
    (made,) = batches.recent()
    assert f"these batches were created and go on: {made.id}" in caplog.text


@pytest.mark.parametrize("wrong", [{"poll_seconds": 0}, {"poll_seconds": "5"}, {"timeout": -1}])
def test_a_wrong_number_is_found_before_anything_is_sent(fake, throttle, wrong):
    """Afterwards there would be ids to lose."""
    server = fake()
    with pytest.raises(ConfigurationError):
        throttle(server).batches.submit(pairs(1), **wrong)
    assert asked(server) == []


def test_looks_and_results_share_a_connection(fake, throttle):
    """A look a minute must not cost a TLS handshake each."""
    server = fake()
    server.batches.seconds = 0.3
    made = []
    connection = server._connection
    server._connection = lambda: made.append(1) or connection()
    server.stop()
    server.start()
    handle = throttle(server).batches.submit(pairs(50), raw=True, poll_seconds=0.05)
    assert len(handle.result(timeout=10)) == 50
    assert len(asked(server)) > 4
    assert len(made) == 1


def test_a_refused_key_suspends_the_account(fake, throttle):
    """No message is sent with it either; and the other way round."""
    server = fake(api_keys=["another"])
    throttler = throttle(server)
    with pytest.raises(anthropic.AuthenticationError):
        throttler.batches.submit(pairs(1))
    with pytest.raises(AccountSuspended):
        throttler.batches.submit(pairs(1))
    assert creations(server) == 1


def test_no_server_is_a_connection_error(throttle):
    """Nothing was sent: tried as often as max_retries says, then told."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with Throttler(api_key=KEY, base_url=url, max_retries=1, proxies={}) as throttler:
            with pytest.raises(anthropic.APIConnectionError):
                throttler.batches.submit(pairs(1))


def test_looks_survive_what_passes(fake, throttle):
    """A wait of hours is not lost to a 500, a 429, a reset or a page of a proxy's."""
    server = fake()
    server.batches.seconds = 0.2
    throttler = throttle(server, max_retries=0)
    handle = throttler.batches.submit(pairs(2), poll_seconds=0.05, raw=True)
    passing = [Reply(500), Reply(429, {"retry-after": "1"}), Reset(), Garbage(), Reply(529)]
    server.batches.script(*passing)
    assert [text_of(result) for result in handle.result(timeout=20)] == ["prompt 0", "prompt 1"]


def test_looks_tell_what_does_not_pass(fake, throttle):
    """A batch that is not there will not be."""
    with pytest.raises(anthropic.NotFoundError):
        throttle(fake()).batches.resume(["msgbatch_none"]).result(timeout=10)


def test_the_key_goes_nowhere_else(fake, throttle):
    """Neither by results_url nor by a redirect."""
    server, thief = fake(), fake()
    server.batches.results_at = thief.url
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(2), raw=True)
    assert len(handle.result(timeout=10)) == 2
    server.batches.script(*[Redirect(thief.url + "/v1/messages/batches")] * 3)
    with pytest.raises(anthropic.APIStatusError):
        throttler.batches.recent()
    with pytest.raises(anthropic.APIStatusError):
        throttler.batches.submit(pairs(1))
    assert thief.batches.arrivals == []


@pytest.mark.parametrize("batch_id", ["../../files", "a/b?c", "", 7, "x" * 300])
def test_an_id_that_is_none_becomes_no_url(fake, throttle, batch_id):
    """A server that says so is not understood."""
    import json

    server = fake()
    body = json.dumps({"id": batch_id, "processing_status": "ended"}).encode()
    server.batches.script(Reply(200, body=body))
    with pytest.raises(BatchIncomplete) as caught:
        throttle(server).batches.submit(pairs(1))
    assert isinstance(caught.value.__cause__, BrokenAnswer)
    assert len(asked(server)) == 1


@pytest.fixture
def proxied(fake):
    """A server, what stands before it, and a throttler that goes through it."""
    server = fake()
    host, port = server.url.removeprefix("http://").split(":")
    with FaultProxy(host, int(port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        with Throttler(api_key=KEY, base_url=url, max_retries=1, proxies={}) as throttler:
            yield server, proxy, throttler


def test_results_that_are_cut_are_fetched_again(proxied):
    """Half of them are not taken for all of them."""
    _, proxy, throttler = proxied
    handle = throttler.batches.submit(pairs(200), raw=True, poll_seconds=0.05)
    wait_until(handle.done)
    proxy.set("cut", 2000)
    with pytest.raises((BrokenAnswer, anthropic.APIConnectionError)):
        handle.result(timeout=20)
    proxy.set("pass")
    assert len({result.custom_id for result in handle.result(timeout=20)}) == 200


@pytest.mark.parametrize("mode", [("drip", 0.05), ("blackhole", 0.0)])
@pytest.mark.parametrize("ending", ["timeout", "close"])
def test_a_server_that_stalls_holds_nobody(proxied, mode, ending):
    """Not the wait for results, not even byte by byte."""
    _, proxy, throttler = proxied
    handle = throttler.batches.submit(pairs(50), raw=True, poll_seconds=0.05)
    wait_until(handle.done)
    proxy.set(*mode)
    if ending == "timeout":
        with pytest.raises(DeadlineExceeded):
            handle.result(timeout=0.5)
        proxy.set("reset")
        proxy.set("pass")
        assert len(handle.result(timeout=20)) == 50
        return
    with ThreadPoolExecutor() as pool:
        wait = pool.submit(handle.result)
        wait_until(lambda: handle._asking)
        throttler.close(timeout=0)
        with pytest.raises(Closed):
            wait.result(timeout=5)


def test_a_creation_that_is_given_up_is_unsure(fake, throttle):
    """By its timeout, or by close(): the request was out."""
    server = fake()
    server.batches.script(Stall(), Stall())
    throttler = throttle(server)
    with pytest.raises(BatchIncomplete) as caught:
        throttler.batches.submit(pairs(1), timeout=0.3)
    assert caught.value.unsure
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(throttler.batches.submit, pairs(1))
        wait_until(lambda: creations(server) == 2)
        throttler.close()
        with pytest.raises(BatchIncomplete) as caught:
            sending.result(timeout=5)
    assert isinstance(caught.value.__cause__, Closed)
    server.release_stalled()


def test_two_threads_wait_while_a_third_gives_up(fake, throttle):
    """Whoever was asking, the others take over."""
    server = fake()
    server.batches.seconds = 0.5
    handle = throttle(server).batches.submit(pairs(20), raw=True, poll_seconds=0.05)
    with ThreadPoolExecutor(12) as pool:
        short = [pool.submit(handle.result, 0.05 + n / 50) for n in range(6)]
        long = [pool.submit(handle.result, 20) for _ in range(6)]
        assert all(len(wait.result()) == 20 for wait in long)
        for wait in short:
            assert isinstance(wait.exception(), (DeadlineExceeded, type(None)))
    assert asked(server).count(("GET", "results")) == 1
    assert threading.active_count() < 60
