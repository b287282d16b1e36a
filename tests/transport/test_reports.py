"""What came of requests that others sent."""

from __future__ import annotations

import pytest
import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from claude_throttle.core.domain.feedback import FAULT, RATE, SILENCE
from claude_throttle.transport.foreign_verdicts import report_of, report_of_error
from claude_throttle.transport.headers import RawHeaders


class ConnectError(Exception):
    """By the name that httpx gives it."""


class ReadTimeout(Exception):
    """The same."""


class PoolTimeout(Exception):
    """The same."""


class RemoteProtocolError(Exception):
    """The same."""


def wrapped(cause):
    """As the SDK does it."""
    try:
        raise RuntimeError("Connection error.") from cause
    except RuntimeError as error:
        return error


REFUSED = requests.ConnectionError(
    MaxRetryError(None, "/", NewConnectionError(None, "refused"))  # type: ignore[arg-type]
)


@pytest.mark.parametrize(
    ("error", "cause", "keeps_tokens"),
    [
        (wrapped(ConnectError()), FAULT, False),
        (wrapped(ReadTimeout()), SILENCE, True),
        (wrapped(PoolTimeout()), SILENCE, False),
        (wrapped(RemoteProtocolError()), FAULT, True),
        (ValueError("of a middleware"), SILENCE, True),
        (REFUSED, FAULT, False),
        (requests.ReadTimeout(), SILENCE, True),
        (
            requests.ConnectionError(ProtocolError("aborted", ConnectionResetError())),
            FAULT,
            True,
        ),
    ],
)
def test_why_no_answer_came(error, cause, keeps_tokens):
    """Whether the server is to blame, and whether it may have counted the tokens."""
    report = report_of_error(error)
    assert (report.feedback.cause, report.keeps_tokens) == (cause, keeps_tokens)
    assert report.refused
    assert report.feedback.final


def test_causes_in_a_circle_come_to_an_end():
    """They may be made."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert report_of_error(first).feedback.cause == SILENCE


def test_a_refusal_says_how_long_to_wait():
    """Whoever sent it decides about another try."""
    headers = RawHeaders([(b"Retry-After", b"7")])
    report = report_of(429, headers, b'{"error": {"message": "50 requests per minute"}}', 0.0)
    assert (report.feedback.cause, report.wait_seconds, report.feedback.pauses_lane) == (
        RATE,
        7.0,
        True,
    )
    assert report.feedback.final
    assert not report.keeps_tokens


def test_raw_headers_are_a_mapping():
    """Asked by lower-case names."""
    headers = RawHeaders([(b"Retry-After", b"7"), (b"X", b"\xe9")])
    assert dict(headers) == {"retry-after": "7", "x": "é"}
    assert len(headers) == 2
    assert headers.get("y") is None
    assert headers.get("y", "z") == "z"
