"""The head of a response, read as http.client reads it, only faster."""

from __future__ import annotations

import http.client
import io
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.transport.response_head import (
    FastHeadResponse,
    ResponseHead,
    read_head,
)

USUAL = b"Date: today\r\nX-A: 1\r\nx-a: 2\r\nrequest-id:req_1\r\nRetry-After:  7 \r\n\r\n"

ODD = [
    b"X-Folded: one\r\n two\r\nX-B: 1\r\n\r\n",
    b"no colon here\r\nX-B: 1\r\n\r\n",
    b"X-A: 1\nX-B: 2\n\n",
    b"X A: 1\r\nX-B: 2\r\n\r\n",
    b"X-A: 1\rX-B: 2\r\n\r\n",
    b": no name\r\n\r\n",
]

NAMES = ["date", "X-A", "x-b", "X-Folded", "request-id", "Retry-After", "none"]


def told(head):
    """What urllib3, and we, ask of one."""
    fields = [(name, value.strip()) for name, value in head.items()]
    return fields, [(head.get(name) or "").strip() for name in NAMES], head.get("none", 5)


@pytest.mark.parametrize("head", [USUAL, b"\r\n", b"X-A: 1\r\n", *ODD])
def test_it_says_what_http_client_says(head):
    """Also of what is not simply one field a line."""
    assert told(read_head(io.BytesIO(head))) == told(http.client.parse_headers(io.BytesIO(head)))


PARTS = ["X-A", "x-b", ":", " ", "\t", "1", "é", "\r", "\n", "\r\n", ";", "\x85"]


@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_any_head_is_read_alike(text):
    """Whatever a server sends: the same fields, or the same error."""
    head = text.encode("latin-1") + b"\r\n\r\n"
    outcomes = []
    for read in (read_head, http.client.parse_headers):
        try:
            outcomes.append(told(read(io.BytesIO(head))))
        except Exception as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_what_follows_the_head_is_left():
    file = io.BytesIO(USUAL + b"body")
    assert isinstance(read_head(file), ResponseHead)
    assert file.read() == b"body"


@pytest.mark.parametrize("head", [b"X-A: " + b"1" * 70_000 + b"\r\n\r\n", b"X-A: 1\r\n" * 101])
def test_a_head_without_end_is_refused(head):
    """As http.client does: a server must not fill our memory."""
    with pytest.raises(http.client.HTTPException) as ours:
        read_head(io.BytesIO(head))
    with pytest.raises(http.client.HTTPException) as theirs:
        http.client.parse_headers(io.BytesIO(head))
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyrest",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
    b"HTTP/1.0 200\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n\r\nbody",
    b"HTTP/1.0 200 OK\r\n\r\nbody",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
    b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nbody",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/0.95 200 OK\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"",
]


def read_whole(kind, data):
    """All that a connection asks of a response, and its body; or how it failed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        response = kind(ours, method="POST")
        try:
            response.begin()
            state = (response.status, response.reason, response.version, response.chunked)
            return state, response.length, response.will_close, response.read()
        except http.client.HTTPException as error:
            return type(error)
        finally:
            response.close()


@pytest.mark.parametrize("data", RESPONSES)
def test_a_response_is_read_as_ever(data):
    """Its length, its chunks, whether its connection may be kept."""
    assert read_whole(FastHeadResponse, data) == read_whole(http.client.HTTPResponse, data)


@pytest.mark.parametrize("status", [b"102 Processing", b"103 Early Hints"])
def test_the_response_comes_after_an_interim_one(status):
    """The call is answered; http.client takes the interim response for its answer."""
    data = b"HTTP/1.1 " + status + b"\r\nLink: <x>\r\n\r\n"
    assert read_whole(FastHeadResponse, data * 3 + RESPONSES[0]) == read_whole(
        http.client.HTTPResponse, RESPONSES[0]
    )


def test_a_changed_protocol_is_final():
    """What follows 101 is not HTTP."""
    (status, *_), _, _, body = read_whole(FastHeadResponse, b"HTTP/1.1 101 Switching\r\n\r\nx")
    assert (status, body) == (101, b"")


def test_interim_responses_without_end_are_refused():
    """Or a call without a deadline would never end."""
    assert read_whole(FastHeadResponse, b"HTTP/1.1 100 Continue\r\n\r\n" * 101) is (
        http.client.HTTPException
    )
