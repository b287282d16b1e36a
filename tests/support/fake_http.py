"""How these tests speak to the fake server: whole requests through ``requests``, or raw bytes."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager

import requests

from tests.support.waiting import wait_until

KEY = "sk-ant-api03-secret-wxyz"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}


def body(text="hello", **more):
    message = {"role": "user", "content": text}
    return {"model": "claude-sonnet-5", "max_tokens": 100, "messages": [message], **more}


def ask(server, text="hello", *, session=None, headers=HEADERS, timeout=5, **more):
    """One call; *session* keeps the connection for the next."""
    post = requests.post if session is None else session.post
    url = server.url + "/v1/messages"
    return post(
        url, json=body(text, **more), headers=headers, timeout=timeout, allow_redirects=False
    )


def raw_request(value, path="/v1/messages", extra=""):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n{extra}"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


@contextmanager
def raw_socket(server):
    host, port = server.url.rpartition("//")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        yield sock


def read_answer(stream):
    """(status, headers, body) of one answer with a length, from a buffered socket file."""
    status = int(stream.readline().split()[1])
    headers = {}
    for line in iter(stream.readline, b"\r\n"):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers["content-length"]))


def events(text):
    """The (name, data) pairs of an event stream."""
    pairs = []
    for block in text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        pairs.append((name[len("event: ") :], json.loads(data[len("data: ") :])))
    return pairs


def ask_until(server, status, text="hello", most=2000):
    """Ask again and again until the answer has *status*; returns it."""
    for _ in range(most):
        answer = ask(server, text)
        if answer.status_code == status:
            return answer
    raise AssertionError(f"no {status} in {most} calls")


def wait_for_arrivals(server, count, seconds=5):
    """Wait until *count* arrivals are in the log."""
    wait_until(
        lambda: len(server.arrivals) >= count,
        seconds,
        why=lambda: f"only {len(server.arrivals)} of {count} arrivals",
    )
