"""The fake server's batches, and their representation in the API.

:mod:`fake_batches` is the endpoint, with the lock and the list of batches; here is what one batch
is: its state as a function of the clock, its JSON and its result lines. Nothing runs in the
background. A batch has ended as soon as the clock reaches ``ends_at``, so a test with a manual
clock decides when that is.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional, Union

from claude_throttle.testing.behaviour import Behaviour
from claude_throttle.testing.faults import Ok
from claude_throttle.testing.plans import ResponseContext, message_for
from claude_throttle.testing.received_call import call_of, wrong_field

#: "errored", "canceled", "expired", or the error itself.
Ending = Union[str, Mapping[str, Any]]

#: Seconds.
#: The API gives a batch 24 hours; what is not processed by then expires.
A_DAY = 86_400.0

# The API's own pattern; the client checks it too, and a test must be able to see both refusals.
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}


@dataclass
class Batch:
    """One batch. Guarded by the lock of :class:`FakeBatches`.

    Its results are computed when they are requested. The outcomes that a test has set were copied
    when the batch was created, so a later ``end()`` concerns later batches only.
    """

    name: str
    requests: list[dict[str, Any]]
    #: The instant on the monotonic scale at which it ends.
    ends_at: float
    #: Seconds since 1970.
    created_wall: float
    endings: dict[str, Ending]
    canceled: bool = False

    def ended(self, now: float) -> bool:
        """Whether it has ended, and has results."""
        return now >= self.ends_at

    def cancel(self, now: float) -> None:
        """End it now; all its requests are canceled unless it has ended already."""
        if not self.ended(now):
            self.canceled, self.ends_at = True, now

    def ending(self, request: Mapping[str, Any]) -> Ending:
        """The outcome of one of its requests.

        The order matters: a canceled batch has no other outcome; an invalid request has errored
        whatever the test set, because the API validates the ``params`` only when it processes the
        batch.
        """
        if self.canceled:
            return "canceled"
        problem = wrong_field(request["params"], True)
        if problem is not None:
            return {"type": "invalid_request_error", "message": problem.message}
        return self.endings.get(request["custom_id"], "succeeded")

    def shown(self, now: float, base_url: str) -> dict[str, Any]:
        """The API's object for it, with the counts and dates that clients read.

        ``results_url`` is null until the batch has ended, and contains the host the client asked: a
        client must check it before it sends its key there.
        """
        ended = self.ended(now)
        kinds: Counter[str] = Counter()
        if ended:
            kinds.update(_kind(self.ending(request)) for request in self.requests)
        counts = {k: kinds[k] for k in ("succeeded", "errored", "canceled", "expired")}
        # All requests count as "processing" until the end (SDK 2.11, message_batch.py).
        counts["processing"] = 0 if ended else len(self.requests)
        return {
            "id": self.name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": _date(self.created_wall),
            "expires_at": _date(self.created_wall + A_DAY),
            "ended_at": _date(self.created_wall) if ended else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{base_url}/v1/messages/batches/{self.name}/results" if ended else None,
        }


def problem_with(requests: Any, most: int) -> Optional[str]:
    """Why a batch of *requests* is invalid; None if it is valid.

    Checks only what makes the API refuse the whole batch: the number of requests and their
    ``custom_id``. A wrong field in ``params`` fails that one request later, in its result.
    """
    if not isinstance(requests, list) or not requests:
        return "requests: List should have at least 1 item"
    if len(requests) > most:
        return f"requests: List should have at most {most} items, not {len(requests)}"
    seen: set[str] = set()
    for number, request in enumerate(requests):
        name = request.get("custom_id") if isinstance(request, dict) else None
        if not isinstance(name, str) or not _CUSTOM_ID.fullmatch(name):
            return f"requests.{number}.custom_id: String should match '^[a-zA-Z0-9_-]{{1,64}}$'"
        if name in seen:
            return f"requests.{number}.custom_id: {name} is not unique"
        if not isinstance(request.get("params"), dict):
            return f"requests.{number}.params: Field required"
        seen.add(name)
    return None


def result_lines(batch: Batch, behaviour: Behaviour, source: random.Random) -> list[bytes]:
    """The result lines, in the order of the requests.

    The API promises no order; :class:`FakeBatches` shuffles them, so that a client that relies on
    the order of its requests fails in a test.
    """
    return [_line(batch, request, behaviour, source) for request in batch.requests]


def _line(
    batch: Batch, request: Mapping[str, Any], behaviour: Behaviour, source: random.Random
) -> bytes:
    ending = batch.ending(request)
    result: dict[str, Any] = {"type": _kind(ending)}
    if result["type"] == "succeeded":
        result["message"] = _message(request["params"], behaviour, source)
    elif result["type"] == "errored":
        error = _OVERLOADED if isinstance(ending, str) else ending
        result["error"] = {"type": "error", "error": error, "request_id": None}
    line = {"custom_id": request["custom_id"], "result": result}
    return json.dumps(line).encode() + b"\n"


def _kind(ending: Ending) -> str:
    return ending if isinstance(ending, str) else "errored"


def _message(params: dict[str, Any], behaviour: Behaviour, source: random.Random) -> dict[str, Any]:
    """The message of a request that succeeded, by the same rules as one sent by itself.

    ``service_tier`` is "batch" in its usage, which is how the price of half is recognised.
    """
    call = call_of(params, behaviour.characters_per_token)
    tokens = behaviour.output_tokens
    count = tokens(source, params) if callable(tokens) else tokens
    produced = max(0, math.ceil(count))
    name = f"msg_01{source.getrandbits(88):022x}"
    message = message_for(Ok(), ResponseContext(call, "", name, {}, {}, 0.0, produced, False))
    return {**message, "usage": {**message["usage"], "service_tier": "batch"}}


def _date(wall: float) -> str:
    return datetime.fromtimestamp(wall, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
