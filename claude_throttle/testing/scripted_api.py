"""The fake server with methods for unit tests: ``answer()``, ``refuse()``, ``asked``.

:class:`FakeClaude` simulates an API with quotas and faults; :class:`ClaudeApi` is for tests of
one's own code, which care about what was asked and what came back. Both are the same server.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from claude_throttle.testing.arrivals import MESSAGES
from claude_throttle.testing.behaviour import Behaviour, Latency
from claude_throttle.testing.computed import Computed, scripted_from
from claude_throttle.testing.faults import Ok
from claude_throttle.testing.http_reader import HttpRequest
from claude_throttle.testing.plans import ResponsePlan
from claude_throttle.testing.received_call import json_object, last_user_message
from claude_throttle.testing.refusals import refusal
from claude_throttle.testing.server import FakeClaude
from claude_throttle.testing.service import Service


class _RecordingService(Service):
    """A service that keeps the bodies of requests."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        # The server's thread appends, other threads copy: both are atomic.
        self.bodies: deque[Optional[bytes]] = deque(maxlen=behaviour.log_limit)

    def answer(self, request: HttpRequest) -> ResponsePlan:
        if (request.method, request.path) == ("POST", MESSAGES):
            self.bodies.append(request.body)
        return super().answer(request)


class ClaudeApi(FakeClaude):
    """A :class:`FakeClaude` for unit tests, whose answers are scripted and whose requests are kept.

    The next calls get what :meth:`answer`, :meth:`refuse` and :meth:`script` were called with, in
    order, one item each. After that a call gets its own last user text back, or the least JSON that
    fits where it asks for JSON or forces a tool. Takes the keywords of :class:`FakeClaude`; without
    quotas everything is admitted at once. All methods may be called from any thread. It keeps all
    requests, or the last ``log_limit``::

        with ClaudeApi() as api:
            api.answer("Hello!")
            assert greet(base_url=api.url) == "Hello!"
            assert api.prompts == ["Say hello."]
    """

    _service_class = _RecordingService
    _service: _RecordingService

    def __init__(self, *, latency: Latency = 0.0, **options: Any) -> None:
        #: Seconds until a response is complete, or a function of a random source and the request's
        #: body that returns them. May be changed at any time; scripted answers may have their own.
        self.latency: Latency = latency
        super().__init__(latency=self._seconds, **options)

    def _seconds(self, source: random.Random, body: dict[str, Any]) -> float:
        latency = self.latency
        return latency(source, body) if callable(latency) else latency

    # -- scripting answers -----------------------------------------------------------------------

    def answer(
        self,
        *answers: Any,
        latency: Optional[float] = None,
        usage: Optional[Mapping[str, Any]] = None,
        blocks: Iterable[Mapping[str, Any]] = (),
        stop_reason: Optional[str] = None,
    ) -> None:
        """Answer the next calls with these, one each: texts, dicts, lists, errors or functions.

        A dict is a message or some of its fields, a content block, or the JSON of the text; a list
        is of content blocks; the SDK's typed ones are taken, too. An error of the official SDK is
        that refusal, and a ``ConnectionError`` a lost connection.

        A function gets the request's body and returns one of these; None is the answer that nobody
        scripted. From its turn on it answers all calls that have no script of their own. It runs in
        the server's thread, so it must not block.

        *latency*: seconds until each response is complete. *usage* replaces fields of the server's
        usage: ``{"output_tokens": 7}``. *blocks* are content blocks after the text, for example a
        ``tool_use``. *stop_reason*: "max_tokens" for a text that was cut, "refusal", …
        """
        if not answers:
            raise TypeError('answer() takes a text for each of the next calls; "" is a text, too')
        if None in answers:
            raise TypeError("an answer must be a text, not None")
        otherwise = Ok("", usage, tuple(blocks), latency, stop_reason)
        self._service.script(
            *(
                Computed(answer, otherwise)
                if callable(answer) and not isinstance(answer, type)
                else scripted_from(answer, otherwise)
                for answer in answers
            )
        )

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
        """Refuse the next *times* calls, in the API's own words.

        *retry_after*: seconds in that header; None leaves it out, and the client decides how long
        it waits. *error_type* and *message*: the documented ones if None. *error_code*: for example
        "ramp_limit_exceeded". A temporary refusal has ``x-should-retry: true``, so ``refuse(429)``
        is a rate limit. For problems of the account use ``script(OWN_SPEND_LIMIT)`` and the others
        of :mod:`claude_throttle.testing`.
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

    # -- requests --------------------------------------------------------------------------------

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all requests for a message, in order of arrival, including refused ones.

        A call that was retried is there twice. A body that is not a JSON object is ``{}``. For
        times, statuses and headers see :attr:`arrivals`.
        """
        return [json_object(body) or {} for body in list(self._service.bodies)]

    @property
    def prompts(self) -> list[str]:
        """What the last user message of each of these requests says, complete.

        Its text blocks, tool results and documents, a line each; what is no text is a mark, such as
        ``[image]``. The system prompt is in :attr:`asked`.
        """
        return [last_user_message(body.get("messages")) for body in self.asked]
