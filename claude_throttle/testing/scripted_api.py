"""The fake server with a unit test's words: answer this, refuse that, what was asked?"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from claude_throttle.testing.arrivals import MESSAGES
from claude_throttle.testing.behaviour import Behaviour, Latency
from claude_throttle.testing.faults import Ok
from claude_throttle.testing.plans import Plan
from claude_throttle.testing.reading import last_user_text
from claude_throttle.testing.refusals import refusal
from claude_throttle.testing.server import FakeClaude
from claude_throttle.testing.service import Service
from claude_throttle.testing.wire import HttpRequest


class _Listening(Service):
    """A service that keeps what it was asked, word for word."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        # Appended to by the server's thread, copied by others: both are single operations.
        self.bodies: deque[Optional[bytes]] = deque(maxlen=behaviour.log_limit)

    def answer(self, request: HttpRequest) -> Plan:
        if (request.method, request.path) == ("POST", MESSAGES):
            self.bodies.append(request.body)
        return super().answer(request)


class ClaudeApi(FakeClaude):
    """:class:`FakeClaude`, which a test can tell what to answer, and ask what it was asked.

    What is scripted by :meth:`answer`, :meth:`refuse` and :meth:`script` is given to the next
    calls, in order, an item each; after that each call gets its own last user text back. Takes the
    keywords of :class:`FakeClaude`: quotas, say. Without them everything is let in at once. All
    methods may be called from any thread. It keeps every request until it is dropped, or the last
    ``log_limit``.
    """

    _kind_of_service = _Listening
    _service: _Listening

    def __init__(self, *, latency: Latency = 0.0, **options: Any) -> None:
        #: Seconds until an answer is complete, or a function of a random source and the request's
        #: body that tells them; may be changed at any time. What is scripted may have its own.
        self.latency: Latency = latency
        super().__init__(latency=self._seconds, **options)

    def _seconds(self, source: random.Random, body: dict[str, Any]) -> float:
        latency = self.latency
        return latency(source, body) if callable(latency) else latency

    # -- what it shall answer --------------------------------------------------------------------

    def answer(
        self,
        *texts: str,
        latency: Optional[float] = None,
        usage: Optional[Mapping[str, Any]] = None,
        blocks: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """The next calls get these texts, one each.

        *latency*: seconds until each is complete; in a stream, until its last piece. *usage* is
        put over what the server would tell, {"output_tokens": 7}. *blocks* are content blocks
        after the text, a ``tool_use`` for example.
        """
        if not texts:
            raise TypeError('answer() takes a text for each of the next calls, "" if it has none')
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"an answer is a string, not {type(text).__name__}")
        self.script(*(Ok(text, usage, tuple(blocks), latency) for text in texts))

    def refuse(
        self,
        status: int,
        *,
        retry_after: Optional[float] = None,
        message: Optional[str] = None,
        error_type: Optional[str] = None,
        error_code: Optional[str] = None,
        latency: Optional[float] = None,
        times: int = 1,
    ) -> None:
        """The next calls, *times* of them, get this refusal, as the API words it.

        *retry_after*: seconds told in the header; None leaves it out, and the client waits as long
        as it thinks fit. *error_type* and *message*: the documented ones if None. *error_code*: as
        in "ramp_limit_exceeded". A refusal that would pass says ``x-should-retry: true``, so
        ``refuse(429)`` is a rate limit; for a spend limit, ``script(OWN_SPEND_LIMIT)`` and the
        other account problems of :mod:`claude_throttle.testing`.
        """
        reply = refusal(
            status,
            retry_after=retry_after,
            message=message,
            error_type=error_type,
            error_code=error_code,
            latency=latency,
        )
        self.script(*[reply] * times)

    # -- what it was asked -----------------------------------------------------------------------

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all requests for a message, in order of arrival, refused ones included.

        So a call that was tried twice is there twice. What was no JSON object is ``{}``. For times,
        statuses and headers, see :attr:`arrivals`.
        """
        return [_read(body) for body in list(self._service.bodies)]

    @property
    def prompts(self) -> list[str]:
        """Of each of these the last user text, whole."""
        return [last_user_text(body.get("messages")) for body in self.asked]


def _read(body: Optional[bytes]) -> dict[str, Any]:
    try:
        read = json.loads(body or b"")
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
