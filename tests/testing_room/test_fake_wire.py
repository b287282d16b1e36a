"""The fake server's reader of requests, without sockets."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.testing.http_reader import HEAD_LIMIT, BadRequest, RequestReader

PIPELINE = (
    b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    b"\r\nGET / HTTP/1.1\r\nX-Empty:\r\n\r\n"
    b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    b"HEAD / HTTP/1.0\r\n\r\n"
)


def read_all(reader):
    return list(iter(reader.next_request, None))


@given(st.lists(st.integers(0, len(PIPELINE)), max_size=12))
def test_any_cut_of_the_bytes_reads_the_same(cuts):
    """Pipelined and split: what TCP does to bytes does not matter."""
    reader, requests = RequestReader(), []
    places = [0, *sorted(cuts), len(PIPELINE)]
    for start, end in zip(places, places[1:]):
        reader.feed(PIPELINE[start:end])
        requests += read_all(reader)
    assert [(r.method, r.path, r.body, r.keep_alive) for r in requests] == [
        ("POST", "/v1/messages", b"hello", True),
        ("GET", "/", b"", True),
        ("POST", "/b", b"hello world", True),
        ("HEAD", "/", b"", False),
    ]
    assert requests[0].headers == {"host": "x", "content-length": "5"}
    assert reader.buffered == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nspace : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: ten\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (b"GET /" + b"a" * HEAD_LIMIT, 431),
    ],
)
def test_what_is_no_request_is_said_with_a_status(data, status):
    """Each broken thing has its answer."""
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(BadRequest) as caught:
        reader.next_request()
    assert caught.value.status == status


@given(st.binary(max_size=300))
def test_bytes_without_sense_raise_nothing_else(data):
    """Whatever comes: requests, patience, or BadRequest."""
    reader = RequestReader()
    reader.feed(data)
    with contextlib.suppress(BadRequest):
        read_all(reader)


def test_a_body_that_is_too_large_is_thrown_away():
    """It is read, so that the client can read the answer, but never kept."""
    reader = RequestReader(body_limit=10)
    reader.feed(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(10):
        assert reader.next_request() is None
        assert reader.buffered == 0
        reader.feed(b"x" * 100)
    reader.feed(b"GET /next HTTP/1.1\r\n\r\n")
    assert [(r.path, r.body) for r in read_all(reader)] == [("/", None), ("/next", b"")]


def test_a_chunked_body_that_is_too_large_ends_it():
    """Its length is not known before."""
    reader = RequestReader(body_limit=10)
    reader.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n")
    with pytest.raises(BadRequest) as caught:
        reader.next_request()
    assert caught.value.status == 413


def test_a_client_that_waits_to_continue_is_told_once():
    """``Expect: 100-continue``, as curl sends it with large bodies."""
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.next_request() is None
    assert (reader.take_continue_wanted(), reader.take_continue_wanted()) == (True, False)
    reader.feed(b"ok")
    assert [r.body for r in read_all(reader)] == [b"ok"]
    assert not reader.take_continue_wanted()


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
def test_who_wants_to_keep_the_connection(version, connection, keep):
    """By version and wish."""
    reader = RequestReader()
    reader.feed(f"GET / HTTP/{version}\r\nconnection: {connection}\r\n\r\n".encode())
    request = reader.next_request()
    assert request is not None
    assert request.keep_alive is keep
