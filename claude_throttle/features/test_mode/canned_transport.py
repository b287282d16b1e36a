"""The transport of testing mode: it answers calls by itself, and sends nothing.

The trap: a test that believes itself offline and is not. So this is not a subclass of
``HttpTransport``: what it does not define raises AttributeError, and cannot reach the network.
"""

from __future__ import annotations

import json
import math
import threading
import uuid
from functools import partial
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union

from claude_throttle.core.dispatch.call import Attempt, AttemptStopped, Call, Outcome
from claude_throttle.core.threads.clock import Clock
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.test_mode.canned_stream import CannedStream
from claude_throttle.testing.default_answer import default_content, output_tokens
from claude_throttle.testing.replies import message_body, usage_body
from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import read_usage

#: The text of an answer, unless the caller gives one. It says so, in case a user sees it.
CANNED_TEXT = "This is a canned answer of claude_throttle's testing mode. No call was made."

#: A text or a latency in seconds, or a function of the request's parameters that returns it.
CannedText = Union[str, Callable[[dict[str, Any]], str]]
CannedLatency = Union[float, Callable[[dict[str, Any]], float]]


class CannedAnswer(NamedTuple):
    """A text and a latency in seconds, or functions of the request's parameters for them."""

    #: None: :data:`CANNED_TEXT`, or what fits where the request asks for JSON or forces a tool.
    text: Optional[CannedText] = None
    latency: CannedLatency = 0.0

    def require(self) -> None:
        """Raise :class:`ConfigurationError` if it cannot be an answer."""
        text: Any = self.text
        if not (text is None or isinstance(text, str) or callable(text)):
            kind = type(text).__name__
            raise ConfigurationError(f"text must be a string or a function, not {kind}")
        if not callable(self.latency):
            _seconds(self.latency)


class CannedTransport:
    """A :class:`Transport` without a network. Thread-safe.

    The caller's functions for text and latency are called in sender threads, several at a time;
    what they raise is the error of that call. A latency is ended by close() and deadlines.
    """

    def __init__(self, canned: CannedAnswer, clock: Clock) -> None:
        self._canned = canned
        self._clock = clock

    def __getattr__(self, name: str) -> NoReturn:
        # Nothing that HttpTransport can do besides may happen in testing mode.
        raise AttributeError(f"testing mode makes no call, so it has no {name}")

    def close(self) -> None:
        """Do nothing: it has no connections."""

    def abandon(self) -> None:
        """Do nothing: it has no sockets of the parent's."""

    def send(self, call: Call, attempts: Attempt) -> Outcome:
        """Answer a call; what a function raises is the call's error."""
        request_id = f"req_testing_{uuid.uuid4().hex[:24]}"
        try:
            message = self._answer(call, attempts)
            value = message if call.raw else sdk.message(message, request_id, lambda error: error)
        except AttemptStopped:
            return Outcome(error=attempts.stopped_by)
        except Exception as error:  # noqa: BLE001 - the function's own
            return Outcome(error=error, request_id=request_id)
        return Outcome(value, None, read_usage(message), 200, request_id)

    def events(self, call: Call, attempts: Attempt) -> CannedStream:
        """The events of the answer to a streamed call."""
        return CannedStream(partial(self._answer, call, attempts), attempts)

    def _answer(self, call: Call, attempts: Attempt) -> dict[str, Any]:
        params = json.loads(call.body)
        self._wait(attempts, params)
        return self._message(call, params)

    def _wait(self, attempts: Attempt, params: dict[str, Any]) -> None:
        latency = self._canned.latency
        seconds = _seconds(latency(params) if callable(latency) else latency)
        # Guards nothing: it is notified when the call must end.
        ended = threading.Condition()

        def hang_up() -> None:
            with ended:
                ended.notify_all()

        attempts.connected(hang_up)
        until = self._clock.monotonic() + seconds
        with ended:
            while not attempts.stopped and (left := until - self._clock.monotonic()) > 0:
                self._clock.wait(ended, left)
        if attempts.stopped:
            raise AttemptStopped

    def _message(self, call: Call, params: dict[str, Any]) -> dict[str, Any]:
        name = f"msg_testing_{uuid.uuid4().hex[:24]}"
        content = self._content(params, name)
        used = min(output_tokens(content), call.max_tokens)
        usage = usage_body(max(1, round(call.estimated_input)), used)
        reason = "tool_use" if content[0]["type"] == "tool_use" else "end_turn"
        return message_body(name, call.model, content, reason, usage)

    def _content(self, params: dict[str, Any], message_id: str) -> list[dict[str, Any]]:
        text = self._canned.text
        if text is None:
            return default_content(params, message_id, CANNED_TEXT)
        text = text if isinstance(text, str) else text(params)
        if not isinstance(text, str):
            raise ConfigurationError(
                f"the function for canned answers gave {type(text).__name__}, not a string"
            )
        return [{"type": "text", "text": text}]


def _seconds(latency: Any) -> float:
    number = isinstance(latency, (int, float)) and not isinstance(latency, bool)
    if not number or not math.isfinite(latency) or latency < 0:
        raise ConfigurationError(f"latency must be a number of seconds from 0, not {latency!r:.80}")
    return float(latency)
