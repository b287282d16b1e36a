"""``httpx.Client(transport=throttler.transport())``: raw calls of a caller's own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import inspect
import json
import logging
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import requests

from claude_throttle import Closed, ConfigurationError, DeadlineExceeded
from claude_throttle.testing import Ok, Reply, Reset
from tests.support.calls import FIVE_SECONDS_AT_ONCE, HELLO, KEY, MODEL, ask, echo
from tests.support.httpx_libraries import INSTALLED, library
from tests.support.inside import (
    connections_to,
    endpoint_lane_of,
    engine_of,
    pacer_of,
    slots_in_use,
)
from tests.support.sdk_releases import CAPABILITIES

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}

#: Read to their end in all the ways that there are.
WAYS = {
    "read": lambda answer: answer.read(),
    "iter_raw": lambda answer: b"".join(answer.iter_raw()),
    "iter_lines": lambda answer: "\n".join(answer.iter_lines()).encode(),
    "iter_bytes": lambda answer: b"".join(answer.iter_bytes(7)),
}


@pytest.fixture(params=INSTALLED)
def httpx(request):
    return library(request.param)


@pytest.fixture
def client(httpx):
    """``client(server, throttler)``: a client around the throttler's transport."""
    with contextlib.ExitStack() as stack:

        def make(server, throttler, **options):
            made = httpx.Client(
                base_url=server.url, headers=HEADERS, transport=throttler.transport(**options)
            )
            stack.callback(closed, made)
            return made

        yield make


def closed(made):
    """Close it; old releases complain where a response was dropped, and close nevertheless."""
    with contextlib.suppress(RuntimeError):
        made.close()


def post(made, path="/v1/messages", **more):
    return made.post(path, json={**HELLO, **more})


def streamed(made, **more):
    return made.stream("POST", "/v1/messages", json={**HELLO, "stream": True, **more})


def at(url):
    """An address in place of a server."""
    return SimpleNamespace(url=url)


def lanes(throttler):
    return [lane.name for lane in engine_of(throttler).account.lanes()]


# -- answers -----------------------------------------------------------------------------------


def test_an_answer_comes_as_without_it_and_is_heard(fake, throttle, client):
    """Each answer gives its place back, and tells the limits."""
    server = fake(rpm=600)
    throttler = throttle(server, rpm=None, max_concurrency=1)
    made = client(server, throttler)
    for _ in range(2):
        assert echo(post(made).json()) == "hello"
        assert slots_in_use(throttler) == 0
    assert pacer_of(throttler).learned["requests"].limit == 600
    assert throttler.stats().permits == 2


def test_the_answer_settles_what_was_booked(fake, throttle, client, manual):
    """A query in the address changes nothing."""
    server = fake(clock=manual)
    server.script(Ok(usage={"input_tokens": 10, "output_tokens": 20}))
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    post(client(server, throttler), "/v1/messages?beta=true", max_tokens=1000)
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_pauses_the_lane_and_can_be_read_in_any_way(fake, throttle, client, way):
    """Where nothing is sent again."""
    server = fake()
    throttler = throttle(server, max_retries=0)
    server.script(Reply(429, {"retry-after": "30"}, message="limit of 50 requests per minute"))
    with client(server, throttler).stream("POST", "/v1/messages", json=HELLO) as refused:
        assert refused.status_code == 429
        assert b"50 requests per minute" in WAYS[way](refused)
    assert 25 < throttler.estimate_wait(**ask()) < 40
    assert len(server.arrivals) == 1
    assert slots_in_use(throttler) == 0


def test_a_refusal_is_understood_though_it_is_compressed(httpx, throttle, fake):
    """And stays compressed for the one who reads it."""
    error = {"type": "authentication_error", "message": "invalid x-api-key"}
    body = gzip.compress(json.dumps({"type": "error", "error": error}).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json", "request-id": "r"}

    def refuse(_request):
        return httpx.Response(401, headers=headers, stream=httpx.ByteStream(body))

    throttler = throttle(fake())
    transport = throttler.transport(transport=httpx.MockTransport(refuse))
    with httpx.Client(transport=transport, base_url="https://api.anthropic.com") as made:
        refused = made.post("/v1/messages", json=HELLO, headers=HEADERS)
        assert refused.json()["error"] == error
        with pytest.raises(Exception, match="invalid x-api-key"):
            throttler.call(**ask())


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_holds_its_place_until_its_end(fake, throttle, client, manual, way):
    """However it is read; its usage settles it."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    with streamed(client(server, throttler), max_tokens=1000) as answer:
        assert slots_in_use(throttler) == 1
        assert b"message_stop" in WAYS[way](answer)
        assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_a_stream_that_is_closed_or_dropped_gives_its_place_back(fake, throttle, client):
    """By the end of a with, by close(), by nobody; read in part or not at all."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    for begins in (True, False):
        with streamed(made) as answer:
            raw = answer.iter_raw()
            if begins:
                next(raw)
            assert slots_in_use(throttler) == 1
        assert slots_in_use(throttler) == 0
        request = made.build_request("POST", "/v1/messages", json={**HELLO, "stream": True})
        answer = made.send(request, stream=True)
        chunks = answer.iter_bytes(8)
        if begins:
            next(chunks)
        del answer, chunks
        gc.collect()
        assert slots_in_use(throttler) == 0


def test_what_breaks_gives_the_place_back(fake, throttle, client, httpx):
    """The library's own error, and a pause of none."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    server.script(Reset())
    with pytest.raises(httpx.TransportError):
        post(made)
    assert slots_in_use(throttler) == 0
    assert echo(post(made).json()) == "hello"


def test_an_answer_that_breaks_off_raises_where_it_is_read_and_keeps_what_was_booked(
    httpx, throttle, fake, manual
):
    """It was let in, and who knows what it took; a refusal that breaks off is a refusal."""

    class Cut(httpx.SyncByteStream):
        def __iter__(self):
            yield b'{"usage": '
            raise httpx.ReadError("cut off")

    status = [200, 429]
    json_type = {"content-type": "application/json", "retry-after": "9"}
    mock = httpx.MockTransport(
        lambda _request: httpx.Response(status.pop(0), headers=json_type, stream=Cut())
    )
    told = {"rpm": None, "otpm": FIVE_SECONDS_AT_ONCE, "max_retries": 0}
    throttler = throttle(fake(), **told, clock=manual)
    url = "https://api.anthropic.com/v1/messages"
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        with made.stream("POST", url, json={**HELLO, "max_tokens": 1000}) as answer:
            assert slots_in_use(throttler) == 0
            with pytest.raises(httpx.ReadError, match="cut off"):
                answer.read()
        assert throttler.estimate_wait(**ask(max_tokens=900)) > 20
        manual.advance(600)
        assert made.post(url, json=HELLO).content == b'{"usage": '


def test_events_whose_type_is_wrong_come_one_by_one_all_the_same(httpx, throttle, fake):
    """Only what says that it is JSON is read at once."""
    read = []

    class Events(httpx.SyncByteStream):
        def __iter__(self):
            for number in range(3):
                read.append(number)
                yield b"event: ping\n\n"

    plain = {"content-type": "text/plain"}
    mock = httpx.MockTransport(lambda _request: httpx.Response(200, headers=plain, stream=Events()))
    throttler = throttle(fake())
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        url = "https://api.anthropic.com/v1/messages"
        with made.stream("POST", url, json=HELLO) as answer:
            next(answer.iter_raw())
            assert read == [0]
    assert slots_in_use(throttler) == 0


@pytest.mark.parametrize(
    "kind", ["application/x-jsonl", "application/jsonl", "application/x-ndjson; charset=utf-8"]
)
def test_the_results_of_a_batch_come_line_by_line(httpx, throttle, fake, kind):
    """They may be longer than the memory; their place is held until their end."""
    sent = []

    class Lines(httpx.SyncByteStream):
        def __iter__(self):
            for number in range(3):
                sent.append(number)
                yield b'{"custom_id": "one"}\n'

    mock = httpx.MockTransport(
        lambda _request: httpx.Response(200, headers={"content-type": kind}, stream=Lines())
    )
    throttler = throttle(fake())
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        url = "https://api.anthropic.com/v1/messages/batches/b/results"
        with made.stream("GET", url) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert sent == [0]
            assert len(list(lines)) == 2


def test_json_is_json_however_its_type_is_written(httpx, throttle, fake, manual):
    """Upper case, a parameter: it is read at once, and its usage counts."""
    body = json.dumps({"usage": {"input_tokens": 1, "output_tokens": 2}}).encode()
    headers = {"content-type": "Application/JSON ;charset=utf-8"}
    mock = httpx.MockTransport(
        lambda _request: httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))
    )
    throttler = throttle(fake(), rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        url = "https://api.anthropic.com/v1/messages"
        with made.stream("POST", url, json={**HELLO, "max_tokens": 1000}) as answer:
            assert slots_in_use(throttler) == 0
            assert answer.read() == body
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


# -- what is paced -----------------------------------------------------------------------------


def test_a_body_that_is_a_generator_or_a_file_is_paced_and_sent_whole(
    fake, throttle, client, tmp_path
):
    """Read before it is sent: its model decides the lane."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    text = json.dumps(HELLO).encode()
    (tmp_path / "body.json").write_bytes(text)
    pieces = (text[at : at + 10] for at in range(0, len(text), 10))
    json_type = {"content-type": "application/json"}
    with (tmp_path / "body.json").open("rb") as file:
        for content in (pieces, file, text.decode(), iter([text])):
            answer = made.post("/v1/messages", content=content, headers=json_type)
            assert echo(answer.json()) == "hello"
    assert throttler.stats().permits == 4


def test_counts_and_batches_have_lanes_of_their_own(fake, throttle, client):
    """As with the SDK."""
    server = fake()
    throttler = throttle(server, rpm=1)
    throttler.submit(**ask()).result(10)
    made = client(server, throttler)
    assert post(made, "/v1/messages/count_tokens").json()["input_tokens"] > 0
    batch = {"requests": [{"custom_id": "one", "params": HELLO}]}
    number = made.post("/v1/messages/batches", json=batch).json()["id"]
    assert made.get(f"/v1/messages/batches/{number}").json()["id"] == number
    assert endpoint_lane_of(throttler, "count_tokens")
    assert endpoint_lane_of(throttler, "batches")


def test_other_paths_and_methods_pass(fake, throttle, client):
    """At once, and in no lane."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/files"), ("GET", "/v1/messages")):
        assert made.request(method, path).status_code in {404, 405}
    assert lanes(throttler) == []


@pytest.mark.parametrize(
    "body",
    ["no JSON", "[1, 2]", "", '"text"', '{"max_tokens": 1}', '{"model": ""}', '{"model": 5}'],
)
def test_a_body_that_is_not_json_passes_and_that_is_said_once(fake, throttle, client, caplog, body):
    """The API says what is wrong with it."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    for _ in range(2):
        assert made.post("/v1/messages", content=body).status_code == 400
    assert lanes(throttler) == []
    assert caplog.text.count("not a JSON object") == 1


def test_another_host_passes_and_that_is_said_once_of_each(fake, throttle, client, caplog):
    """Its requests are not those of the throttler's quotas."""
    server, other, third = fake(), fake(), fake()
    throttler = throttle(server)
    made = client(server, throttler)
    for host in (other, third, other, third):
        assert echo(made.post(f"{host.url}/v1/messages", json=HELLO).json()) == "hello"
    assert lanes(throttler) == []
    assert caplog.text.count("this throttler is for") == 2
    assert caplog.text.count(f"a request for {other.url.partition('//')[2]}") == 1


def test_a_host_that_has_nothing_to_do_with_the_api_is_told_of_quietly(
    fake, throttle, client, caplog
):
    """No warning for a program that uses its client for other things, too."""
    caplog.set_level(logging.INFO, "claude_throttle")
    other = fake()
    made = client(fake(), throttle(fake()))
    for _ in range(2):
        made.get(f"{other.url}/health")
    told = [each for each in caplog.records if "none to the Claude API" in each.getMessage()]
    assert [each.levelname for each in told] == ["INFO"]


@pytest.mark.parametrize(
    ("base_url", "asked", "is_paced"),
    [
        ("https://api.anthropic.com", "https://API.anthropic.com:443", True),
        ("https://api.anthropic.com", "https://api.anthropic.com.", True),
        ("https://relay.example", "https://Relay.example.", True),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example", True),
        ("https://xn--bcher-kva.example", "https://b\u00fccher.example", True),
        ("https://relay.example/anthropic", "https://api.anthropic.com", True),
        ("https://relay.example:443/anthropic/", "https://relay.example/anthropic", True),
        ("https://relay.example:8443", "https://relay.example:8443", True),
        ("http://[::1]:8000", "http://[::1]:8000", True),
        ("https://relay.example:8443", "https://relay.example", False),
        ("https://api.anthropic.com", "https://xapi.anthropic.com", False),
        ("https://api.anthropic.com", "https://api.anthropic.com.example", False),
        ("https://api.anthropic.com", "https://aws-external-anthropic.eu-west-1.api.aws", True),
    ],
)
def test_the_throttlers_host_and_the_apis_own_are_paced(httpx, throttle, base_url, asked, is_paced):
    """Host and port, however they are written."""
    throttler = throttle(at(base_url))
    mock = httpx.MockTransport(lambda _request: httpx.Response(200, json={}))
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        made.post(f"{asked}/v1/messages", json=HELLO)
    assert throttler.stats().permits == is_paced


@pytest.mark.parametrize(
    ("platform", "url", "lane"),
    [
        (
            "bedrock",
            "https://bedrock-runtime.us-east-1.amazonaws.com"
            "/model/us.anthropic.claude-sonnet-4-6-v1%3A0/invoke-with-response-stream",
            "us.sonnet-4",
        ),
        (
            "bedrock",
            "https://bedrock-runtime.eu-west-1.amazonaws.com"
            "/model/anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
            "haiku-4",
        ),
        (
            "vertex",
            "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu"
            "/publishers/anthropic/models/claude-sonnet-4-6@20260101:streamRawPredict",
            "sonnet-4",
        ),
        (
            "vertex",
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global"
            "/publishers/anthropic/models/count-tokens:rawPredict",
            "count_tokens",
        ),
        ("foundry", "https://mine.services.ai.azure.com/anthropic/v1/messages", "sonnet-5"),
    ],
)
def test_a_throttler_of_a_cloud_paces_its_paths(httpx, throttle, platform, url, lane):
    """Where the path names the model, the body does not."""
    throttler = throttle(at("https://api.anthropic.com"), platform=platform)
    mock = httpx.MockTransport(lambda _request: httpx.Response(200, json={}))
    body = HELLO if platform == "foundry" else {"max_tokens": 10, "messages": []}
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        made.post(url, json=body)
    engine = engine_of(throttler)
    names = [*engine.account.admission.endpoint_lanes, *lanes(throttler)]
    assert [name for name in names if name.startswith(lane)]


def test_its_terms_are_a_permits(fake, throttle, client):
    """What waits is bounded by timeout=, and nothing else is."""
    server = fake()
    throttler = throttle(server, rpm=1, burst=1)
    made = client(server, throttler, priority="interactive", tenant="a", timeout=0.05)
    assert post(made).status_code == 200
    with pytest.raises(DeadlineExceeded, match="nothing was sent"):
        post(made)
    with pytest.raises(ConfigurationError):
        throttler.transport(timeout="soon")


def test_a_turn_that_comes_late_takes_nothing_from_the_clients_time_outs(httpx, fake, throttle):
    """They are for the wire, and go there as they are."""
    seen = []

    def answer(request):
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json={})

    throttler = throttle(fake(), rpm=1200, burst=1)
    transport = throttler.transport(transport=httpx.MockTransport(answer))
    with httpx.Client(transport=transport, timeout=0.01) as made:
        for _ in range(3):
            made.post("https://api.anthropic.com/v1/messages", json=HELLO)
    assert seen == [dict.fromkeys(("connect", "read", "write", "pool"), 0.01)] * 3


# -- errors of ours ----------------------------------------------------------------------------


def test_a_closed_throttler_refuses(fake, throttle, client):
    """The client lives on; it has no pace to go by."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    post(made)
    throttler.close()
    with pytest.raises(Closed, match="make a new one"):
        post(made)
    assert len(server.arrivals) == 1


def test_testing_mode_lets_no_request_through(fake, throttle, client):
    """It would be a real one; after the mode it goes."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    with throttler.testing_mode(), pytest.raises(ConfigurationError, match="testing mode"):
        post(made)
    assert not server.arrivals
    assert post(made).status_code == 200


def test_an_asynchronous_client_is_told_what_to_write(httpx, fake, throttle):
    """At its first request, or when it is entered."""
    transport = throttle(fake()).transport()

    async def use(entering):
        made = httpx.AsyncClient(transport=transport)
        if entering:
            async with made:
                pass
        else:
            try:
                await made.post("https://api.anthropic.com/v1/messages", json=HELLO)
            finally:
                await made.aclose()

    for entering in (True, False):
        with pytest.raises(TypeError, match=r"synchronous.*httpx\.Client\(transport="):
            asyncio.run(use(entering))


@pytest.mark.parametrize("method", ["adapter", *["middleware"] * CAPABILITIES["middleware"]])
def test_what_was_made_for_another_client_says_what_fits_httpx(httpx, fake, throttle, method):
    """With and without a with."""
    given = getattr(throttle(fake()), method)()
    made = httpx.Client(transport=given)
    with pytest.raises(TypeError, match=r"write httpx\.Client\(transport=throttler\.trans"):
        made.post("https://api.anthropic.com/v1/messages", json=HELLO)
    made.close()
    with pytest.raises(TypeError, match=r"write httpx\.Client\("):
        httpx.Client(transport=given).__enter__()


def test_what_was_made_for_httpx_says_what_fits_requests_and_the_sdk(fake, throttle):
    """transport() in a session, and as a middleware."""
    throttler = throttle(fake())
    with requests.Session() as session:
        session.mount("https://", throttler.transport())
        with pytest.raises(TypeError, match=r"write session\.mount\(.*throttler\.adapter\(\)\)"):
            session.post("https://api.anthropic.com/v1/messages", json=HELLO)
    for given in (throttler.adapter(), throttler.transport()):
        with pytest.raises(TypeError, match=r"middleware=\[throttler\.middleware\(\)\]"):
            given(None, None)


def test_it_does_not_pickle(fake, throttle):
    """It belongs to a throttler, and that to a process."""
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(throttle(fake()).transport())


class MadeByNobody:
    """A transport's class in place of a transport."""

    def handle_request(self, request):
        """Never called."""


# -- what sends --------------------------------------------------------------------------------


class Recorded(Exception):
    """In place of a transport: what it would have been made with."""


def options_of(httpx, monkeypatch, transport, url="https://api.anthropic.com/v1/models"):
    """What the library's own transport is made with."""

    class Recording(httpx.HTTPTransport):
        __signature__ = inspect.signature(httpx.HTTPTransport)

        def __init__(self, **options):
            raise Recorded(options)

    monkeypatch.setattr(httpx, "HTTPTransport", Recording)
    with pytest.raises(Recorded) as caught, httpx.Client(transport=transport) as made:
        made.get(url)
    return caught.value.args[0]


@pytest.fixture
def no_proxy(monkeypatch):
    """An environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_the_clients_connections_do_not_bound_what_may_leave(httpx, throttle, fake, no_proxy):
    """httpx allows 100 and keeps 20."""
    made = options_of(httpx, no_proxy, throttle(fake()).transport())
    assert made["limits"].max_connections is None
    assert made["limits"].max_keepalive_connections >= 100
    takes_options = "socket_options" in inspect.signature(httpx.HTTPTransport).parameters
    assert bool(made.get("socket_options")) == takes_options  # releases before 0.25 take none
    assert "proxy" not in made


def test_threads_that_begin_at_once_make_one_transport(httpx, throttle, fake, monkeypatch):
    """Each would read all certificates of the machine."""
    made, begun = [], threading.Barrier(8)

    class Counted(httpx.HTTPTransport):
        def __init__(self, **options):
            made.append(1)
            super().__init__(**options)

    monkeypatch.setattr(httpx, "HTTPTransport", Counted)
    server = fake()
    with httpx.Client(transport=throttle(server).transport(), base_url=server.url) as client:

        def call(_):
            begun.wait(30)
            return client.get("/v1/models").status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call, range(8))) == {404}
    assert made == [1]


def test_options_are_the_librarys_own(httpx, throttle, fake, no_proxy):
    """All of them, unchanged; a proxy's address becomes what every release takes."""
    given = {
        "verify": False,
        "cert": "c",
        "http1": True,
        "http2": True,
        "trust_env": False,
        "limits": httpx.Limits(max_connections=3),
        "local_address": "127.0.0.1",
        "retries": 0,
        "socket_options": [(1, 2, 3)],
        "uds": "/tmp/s",
    }
    assert options_of(httpx, no_proxy, throttle(fake()).transport(**given)) == given


def test_the_environments_proxy_is_used_as_without_a_transport(httpx, throttle, fake, no_proxy):
    """A client that is given a transport does not look for one."""
    no_proxy.setenv("HTTPS_PROXY", "proxy.example:3128")
    no_proxy.setenv("NO_PROXY", "inner.example")
    throttler = throttle(fake())

    def proxy(url="https://api.anthropic.com/v1/models", **options):
        with no_proxy.context() as patch:
            made = options_of(httpx, patch, throttler.transport(**options), url)
        return made["proxy"] and str(made["proxy"].url) if "proxy" in made else None

    assert proxy() == "http://proxy.example:3128"
    assert proxy(url="https://inner.example/") is None
    assert proxy(url="http://api.anthropic.com/") is None
    assert proxy(trust_env=False) is None
    assert proxy(proxy="http://mine.example:8080") == "http://mine.example:8080"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"retries": 2}, ConfigurationError, "without waiting for a turn"),
        ({"verfy": False}, TypeError, "takes no verfy="),
        ({"follow_redirects": True}, TypeError, r"httpx\.Client\(…\)"),
        ({"max_retries": 2}, TypeError, "takes no max_retries="),
        ({"transport": object()}, ConfigurationError, "not a transport of httpx"),
        ({"transport": MadeByNobody}, ConfigurationError, "not a transport of httpx"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_given(
    throttle, fake, options, error, says
):
    """With what to write."""
    with pytest.raises(error, match=says):
        throttle(fake()).transport(**options)


def test_a_transport_of_the_callers_own_sends(httpx, throttle, fake):
    """It is entered and closed with the client, and keeps its own options."""
    seen = []

    class Own(httpx.HTTPTransport):
        def handle_request(self, request):
            seen.append(request.url.path)
            return super().handle_request(request)

        def close(self):
            seen.append("closed")
            super().close()

    server = fake()
    throttler = throttle(server)
    with httpx.Client(transport=throttler.transport(transport=Own())) as made:
        answer = made.post(f"{server.url}/v1/messages", json=HELLO, headers=HEADERS)
        assert echo(answer.json()) == "hello"
    httpx.Client(transport=throttler.transport(transport=Own())).close()
    assert seen[0] == "/v1/messages"
    assert "closed" in seen
    with pytest.raises(ConfigurationError, match="give that to your own"):
        throttler.transport(transport=Own(), verify=False)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_mock_that_has_read_its_answer_settles_too(httpx, throttle, fake, manual, is_stream):
    """JSON, and events."""
    usage = {"input_tokens": 10, "output_tokens": 20}
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}},
        {"type": "message_delta", "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ]
    text = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
    answer = (
        {"text": text, "headers": {"content-type": "text/event-stream"}}
        if is_stream
        else {"json": {"type": "message", "usage": usage}}
    )
    throttler = throttle(fake(), rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    mock = httpx.MockTransport(lambda _request: httpx.Response(200, **answer))
    with httpx.Client(transport=throttler.transport(transport=mock)) as made:
        made.post("https://api.anthropic.com/v1/messages", json={**HELLO, "max_tokens": 1000})
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_a_request_that_two_transports_of_one_throttler_see_is_admitted_once(
    httpx, fake, throttle, caplog
):
    """The inner one passes it; that of another throttler admits it, too, and says so once."""
    server = fake()
    one, other = throttle(server), throttle(server)
    for inner in (one.transport(), other.transport()):
        with httpx.Client(transport=one.transport(transport=inner), headers=HEADERS) as made:
            for _ in range(2):
                assert echo(made.post(f"{server.url}/v1/messages", json=HELLO).json()) == "hello"
    assert (one.stats().permits, other.stats().permits) == (4, 2)
    assert caplog.text.count("two throttlers pace one client") == 1


def test_a_client_closes_its_connections_and_nothing_else(fake, throttle, httpx):
    """The throttler goes on."""
    server = fake()
    throttler = throttle(server)
    made = httpx.Client(transport=throttler.transport(), headers=HEADERS)
    made.post(f"{server.url}/v1/messages", json=HELLO)
    assert len(connections_to(server)) == 1
    made.close()
    assert echo(throttler.call(**ask())) == "hello"


def test_a_client_made_before_a_fork_has_sockets_of_its_own_in_the_child(
    fake, throttle, client, httpx, monkeypatch
):
    """And a pace of its own; the parent's goes on."""
    made_by = []

    class Counted(httpx.HTTPTransport):
        def __init__(self, **options):
            made_by.append(os.getpid())
            super().__init__(**options)

    monkeypatch.setattr(httpx, "HTTPTransport", Counted)
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    post(made)
    with throttler.permit(model=MODEL):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert echo(post(made).json()) == "hello"
                status = 0 if made_by[1:] == [os.getpid()] else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert echo(post(made).json()) == "hello"
    assert made_by == [os.getpid()]
