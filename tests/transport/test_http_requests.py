"""What a call looks like on the wire; ``responses`` plays the server."""

from __future__ import annotations

import json

import pytest

from claude_throttle import Throttler
from tests.support.played_server import ASK, KEY, URL, answer

TOKEN = "bearer-secret-0123456789"


def test_the_request_as_it_leaves(server, make):
    """One POST, a body of its exact length, the headers the API wants."""
    answer(server)
    make().submit(**ASK, raw=True).result(60)
    sent = server.calls[0].request
    assert (sent.method, sent.url, json.loads(sent.body)) == ("POST", URL, ASK)
    assert dict(sent.headers) == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "Content-Length": str(len(sent.body)),
        "anthropic-version": "2023-06-01",
        "x-api-key": KEY,
    }


def test_a_token_is_a_bearer(server, make):
    """Authorization instead of x-api-key."""
    answer(server)
    make(auth_token=TOKEN).submit(**ASK, raw=True).result(60)
    headers = server.calls[0].request.headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert "x-api-key" not in headers


def test_headers_for_all_and_for_one(server, make):
    """default_headers go with every call, extra_headers with theirs, and before the others."""
    answer(server)
    throttler = make(default_headers={"X-Team": "a", "X-Trace": "all"}, api_version="2025-01-01")
    throttler.submit(**ASK, raw=True, extra_headers={"X-Trace": "one"}).result(60)
    throttler.submit(**ASK, raw=True).result(60)
    first, second = (call.request.headers for call in server.calls)
    assert (first["X-Team"], first["X-Trace"]) == ("a", "one")
    assert (second["X-Team"], second["X-Trace"]) == ("a", "all")
    assert first["anthropic-version"] == "2025-01-01"


def test_the_address_of_the_environment(server, make, monkeypatch):
    """ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, as the SDK reads them."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gate.example/claude/")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-environment")
    answer(server, "https://gate.example/claude/v1/messages")
    with Throttler(rpm=6000) as throttler:
        throttler.submit(**ASK, raw=True).result(60)
    assert server.calls[0].request.headers["x-api-key"] == "key-of-the-environment"


def how(server):
    """How the first request was to be carried."""
    return server.calls[0].request.req_kwargs


def test_proxies_and_certificates_that_were_told(server, make, tmp_path):
    """As requests spells them; TLS is always checked."""
    answer(server)
    proxies = {"https": "http://proxy.example:3128"}
    bundle = str(tmp_path)
    make(proxies=proxies, ca_bundle=bundle).submit(**ASK, raw=True).result(60)
    assert (how(server)["proxies"], how(server)["verify"]) == (proxies, bundle)


def test_proxies_of_the_environment_are_read_once(server, make, monkeypatch):
    """Not for each call; and NO_PROXY is obeyed."""
    monkeypatch.setenv("HTTPS_PROXY", "http://env.example:3128")
    answer(server)
    throttler = make()
    throttler.submit(**ASK, raw=True).result(60)
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:3128")
    throttler.submit(**ASK, raw=True).result(60)
    asked = [call.request.req_kwargs["proxies"]["https"] for call in server.calls]
    assert asked == ["http://env.example:3128"] * 2
    assert how(server)["verify"] is True
    monkeypatch.setenv("NO_PROXY", "api.example")
    make().submit(**ASK, raw=True).result(60)
    assert server.calls[2].request.req_kwargs["proxies"] == {}


@pytest.mark.parametrize(("max_tokens", "seconds"), [(9, 600.0), (64_000, 1800.0)])
def test_an_answer_may_take_as_long_as_its_tokens(server, make, max_tokens, seconds):
    """Ten minutes, or longer by max_tokens: an hour for 128,000; 5 s for the connection."""
    answer(server)
    make().submit(**{**ASK, "max_tokens": max_tokens}, raw=True).result(60)
    assert how(server)["timeout"] == (5.0, seconds)


def test_no_wait_of_the_socket_outlasts_the_call(server, make):
    """The worker cuts a read at the deadline; a second later the socket would by itself."""
    answer(server)
    make().submit(**ASK, raw=True, timeout=50.0).result(60)
    make().submit(**ASK, raw=True, timeout=4.0).result(60)
    (_, long_read), (connect, read) = (call.request.req_kwargs["timeout"] for call in server.calls)
    assert 5.0 < long_read <= 51.0
    assert connect <= 4.0
    assert read == pytest.approx(connect + 1.0)
