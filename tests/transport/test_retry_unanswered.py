"""PacedRetry when no answer came: what was lost, and whether it may be sent again."""

from __future__ import annotations

from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected

import pytest
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from claude_throttle.core.domain.feedback import FAULT
from claude_throttle.transport.retry import verdict_on_error
from tests.support.scripted_attempts import RULES, lose, refuse, retry

NO_CONNECTION = [
    NewConnectionError(None, "refused"),
    ConnectTimeoutError("slow"),
    ProxyError("proxy", NewConnectionError(None, "refused")),
    ProxyError("proxy", ConnectTimeoutError("slow")),
]
LOST = [
    ProtocolError("Connection aborted.", RemoteDisconnected("closed")),
    ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")),
    ProtocolError("Connection aborted.", BrokenPipeError(32, "pipe")),
]
FINAL = [
    SSLError("bad certificate"),
    ProxyError("proxy", SSLError("bad certificate")),
    ProxyError("proxy says no", OSError("407")),
    ProtocolError("Connection broken", IncompleteRead(b"half")),
    ProtocolError("Connection aborted.", BadStatusLine("garbage")),
    ProtocolError("no cause"),
    ProtocolError(),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", NO_CONNECTION, ids=repr)
def test_without_a_connection_nothing_was_sent(error):
    """Sent again whatever the rules for resets; its tokens come back."""
    verdict = verdict_on_error(error, RULES._replace(resets=False))
    assert (verdict.retry, verdict.reason) == (True, "no connection")
    assert not verdict.keeps_tokens
    assert verdict.feedback.cause == FAULT


@pytest.mark.parametrize("error", LOST, ids=repr)
@pytest.mark.parametrize("resets", [True, False])
def test_a_connection_lost_before_any_answer(error, resets):
    """Sent again as the SDK does, unless retry_resets=False; the server may have counted it."""
    verdict = verdict_on_error(error, RULES._replace(resets=resets))
    assert (verdict.retry, verdict.reason) == (resets, "connection lost")
    assert verdict.keeps_tokens
    assert verdict.feedback.cause == FAULT


@pytest.mark.parametrize("allowed", [True, False])
def test_a_read_timeout_only_if_the_caller_allowed_it(allowed):
    """The server may be working on it: it could be billed twice."""
    error = ReadTimeoutError(None, "/", "slow")
    verdict = verdict_on_error(error, RULES._replace(read_timeouts=allowed))
    assert (verdict.retry, verdict.reason, verdict.keeps_tokens) == (allowed, "read timeout", True)


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_everything_else_is_final(error):
    """Garbage is an answer, half an answer is one, a bad certificate does not mend itself."""
    verdict = verdict_on_error(error, RULES._replace(read_timeouts=True))
    assert (verdict.retry, verdict.feedback.cause) == (False, "silence")
    asked = retry()
    with pytest.raises(MaxRetryError) as caught:
        lose(asked, error)
    assert caught.value.reason is asked.exchange.error is error


def test_an_answer_makes_an_earlier_loss_forgotten():
    """The error that is raised is the last one."""
    asked = retry()
    asked = lose(asked, NewConnectionError(None, "refused"))
    assert asked.exchange.status is None
    asked = refuse(asked, 500)
    assert (asked.exchange.error, asked.exchange.status) == (None, 500)
