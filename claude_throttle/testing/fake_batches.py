"""The endpoint ``/v1/messages/batches`` of the fake server.

:mod:`batch_records` has the batches themselves. This module has the operations (create, list,
retrieve, results, cancel, delete), the key check, the endpoint's own request quota, and a script of
answers for tests of failures. The trap for clients that it makes testable: a POST whose answer is
lost may have created a batch nevertheless (``script(Reset(), carried_out=True)``), and sending it
again pays twice.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Optional, Union
from urllib.parse import parse_qs

from claude_throttle.simulation.quotas import ModelQuotas, SimulatedLimits
from claude_throttle.testing import batch_records, replies
from claude_throttle.testing.arrivals import Arrival, ArrivalLog
from claude_throttle.testing.batch_records import Batch, Ending
from claude_throttle.testing.behaviour import Behaviour
from claude_throttle.testing.faults import Garbage, Reply, Scripted
from claude_throttle.testing.http_reader import HttpRequest
from claude_throttle.testing.received_call import SECRET_HEADERS, key_of
from claude_throttle.testing.refusals import KEY_REFUSED

PATH = "/v1/messages/batches"

#: Requests in a batch (SDK 2.11, rate-limit page 2026-09).
MOST_REQUESTS = 100_000

#: Batches on a page of the list; the API refuses a larger ``limit``, and uses 20 without one.
LARGEST_PAGE = 1000

# The header with which the API marks a refusal that a retry cannot cure.
_FINAL = {"x-should-retry": "false"}


class FakeBatches:
    """The batches of a :class:`FakeClaude`. Thread-safe; everything may be changed while it runs.

    Requests about batches have their own quota, and their own log: :attr:`arrivals`. Reached as
    ``fake.batches``::

        fake.batches.seconds = 2.0                          # how long a batch takes
        fake.batches.end({"call-7": "errored"})             # the outcome of one request
        fake.batches.script(Reset(), carried_out=True)      # created, but the answer is lost
    """

    def __init__(self, behaviour: Behaviour) -> None:
        #: Seconds of the server's clock from a batch's creation to its end.
        self.seconds = 0.0
        #: Requests that a batch may hold.
        self.most_requests = MOST_REQUESTS
        #: The base URL in ``results_url``; None: this server's.
        self.results_at: Optional[str] = None
        #: A function that changes the lines of results before they are sent, to simulate errors.
        self.rewrite: Optional[Callable[[list[bytes]], list[bytes]]] = None
        self._behaviour = behaviour
        self._clock = behaviour.clock
        self._log = ArrivalLog(behaviour.log_limit)
        # Guards all below.
        self._lock = threading.Lock()
        self._batches: dict[str, Batch] = {}
        self._endings: dict[str, Ending] = {}
        self._script: deque[tuple[Scripted, bool]] = deque()
        self._quotas = ModelQuotas(SimulatedLimits(), self._clock.monotonic())
        self._random = random.Random(f"batches {behaviour.seed}")

    @property
    def arrivals(self) -> list[Arrival]:
        """Every request about batches, in order; ``model`` is its method, ``nonce`` its query."""
        return self._log.copy()

    @property
    def created(self) -> list[list[str]]:
        """The ``custom_id``s of each batch, oldest first."""
        with self._lock:
            return [[one["custom_id"] for one in b.requests] for b in self._batches.values()]

    def limits(self, rpm: Optional[float] = None, burst: Optional[float] = None) -> None:
        """Set the quota of requests about batches: per minute, and at once. None is unlimited."""
        with self._lock:
            self._quotas.reshape(SimulatedLimits(rpm=rpm, burst=burst), self._clock.monotonic())

    def script(self, *answers: Scripted, carried_out: bool = False) -> None:
        """Answer the next requests with these, in order, one each.

        With *carried_out* a request takes effect before its scripted answer is sent: a batch is
        created, though the client sees a lost connection. Without it the request has no effect, and
        uses no quota.
        """
        with self._lock:
            self._script.extend((answer, carried_out) for answer in answers)

    def end(self, endings: Mapping[str, Union[str, Mapping[str, Any]]]) -> None:
        """Set outcomes by ``custom_id``: "errored", "canceled", "expired", or an error.

        They hold for batches that are created afterwards: each batch copies them when it is
        created.
        """
        with self._lock:
            self._endings.update(endings)

    def answer(self, request: HttpRequest, at: float) -> Scripted:
        """Decide the response to *request*, which arrived at *at*, and log it.

        Rate-limit headers are added to every reply; a scripted header goes before them.
        """
        with self._lock:
            decided = self._decide_locked(request, at)
            limits = replies.rate_limit_headers(self._quotas.standings(at), self._clock.wall())
        if isinstance(decided, Reply):
            decided = Reply(**{**vars(decided), "headers": {**limits, **decided.headers}})
        status = getattr(decided, "status", 0)
        self._log.append(_arrival(request, at, status))
        return decided

    def _decide_locked(self, request: HttpRequest, at: float) -> Scripted:
        """Script, key, quota, then the operation itself. Requires _lock."""
        scripted, carried_out = self._script.popleft() if self._script else (None, False)
        if scripted is not None and not carried_out:
            return scripted
        key = key_of(request.headers)
        if not key or not self._behaviour.is_valid_key(key):
            return KEY_REFUSED
        refusal = self._quotas.admit(0, at)
        if refusal is not None:
            return replies.refusal_reply(refusal, self._behaviour.organization_id, "batches")
        answer = self._do_locked(request, at)
        return answer if scripted is None else scripted

    def _do_locked(self, request: HttpRequest, at: float) -> Scripted:
        """Carry out one operation, chosen by method and path. Requires _lock."""
        name, _, action = request.path[len(PATH) :].strip("/").partition("/")
        if not name:
            return (
                self._create_locked(request, at)
                if request.method == "POST"
                else self._list(request, at)
            )
        batch = self._batches.get(name)
        if batch is None:
            return Reply(404, _FINAL, message=f"Message Batch {name} not found")
        if (request.method, action) == ("GET", ""):
            return self._shown(batch, request, at)
        if (request.method, action) == ("POST", "cancel"):
            batch.cancel(at)
            return self._shown(batch, request, at)
        if (request.method, action) == ("GET", "results"):
            return self._results_locked(batch, at)
        if (request.method, action) == ("DELETE", ""):
            return self._delete_locked(batch, at)
        return Reply(404, _FINAL, message="Not found")

    def _create_locked(self, request: HttpRequest, at: float) -> Scripted:
        """Create a batch, or refuse it as a whole. Requires _lock.

        A body that was too large to keep is None and gets the page of a proxy: the API's edge
        refuses it before the API sees it, so that 413 is HTML and not the JSON of an API error.
        """
        if request.body is None:
            return Garbage(replies.TOO_LARGE_PAGE, 413)
        try:
            requests = json.loads(request.body)["requests"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _invalid("requests: Field required")
        problem = batch_records.problem_with(requests, self.most_requests)
        if problem is not None:
            return _invalid(problem)
        name = f"msgbatch_01{self._random.getrandbits(88):022x}"
        wall = self._clock.wall()
        self._batches[name] = Batch(name, requests, at + self.seconds, wall, dict(self._endings))
        return self._shown(self._batches[name], request, at)

    def _shown(self, batch: Batch, request: HttpRequest, at: float) -> Reply:
        return Reply(200, body=replies.to_json(batch.shown(at, self._base_url(request))))

    def _base_url(self, request: HttpRequest) -> str:
        return self.results_at or f"http://{request.headers.get('host', 'localhost')}"

    def _list(self, request: HttpRequest, at: float) -> Reply:
        """One page of the batches, newest first, as the API orders them.

        ``after_id`` is the cursor; an unknown one is ignored. The bounded length before int() is
        there because Python refuses to convert numbers of thousands of digits.
        """
        asked = {name: texts[-1] for name, texts in parse_qs(request.query).items()}
        names = list(reversed(self._batches))
        if asked.get("after_id") in names:
            names = names[names.index(asked["after_id"]) + 1 :]
        limit = asked.get("limit", "20")
        size = int(limit) if limit.isdecimal() and len(limit) < 9 else 0
        if not 1 <= size <= LARGEST_PAGE:
            return _invalid("limit: Input should be from 1 to 1000")
        base_url = self._base_url(request)
        page = [self._batches[name].shown(at, base_url) for name in names[:size]]
        ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        more = len(names) > size
        answer = {"data": page, "has_more": more, "first_id": ends[0], "last_id": ends[1]}
        return Reply(200, body=replies.to_json(answer))

    def _results_locked(self, batch: Batch, at: float) -> Reply:
        """The results of a batch that has ended, shuffled: the API promises no order.

        Requires _lock.
        """
        if not batch.ended(at):
            return _invalid(f"Message Batch {batch.name} has no results: it is still processing")
        lines = batch_records.result_lines(batch, self._behaviour, self._random)
        self._random.shuffle(lines)
        if self.rewrite is not None:
            lines = self.rewrite(lines)
        return Reply(200, {"content-type": "application/x-jsonl"}, body=b"".join(lines))

    def _delete_locked(self, batch: Batch, at: float) -> Reply:
        """Requires _lock."""
        if not batch.ended(at):
            return _invalid(f"Message Batch {batch.name} cannot be deleted: it is processing")
        del self._batches[batch.name]
        return Reply(200, body=replies.to_json({"id": batch.name, "type": "message_batch_deleted"}))


def _invalid(message: str) -> Reply:
    return Reply(400, _FINAL, message=message)


def _arrival(request: HttpRequest, at: float, status: int) -> Arrival:
    headers = {k: v for k, v in request.headers.items() if k not in SECRET_HEADERS}
    key = key_of(request.headers)[-4:]
    admitted = 200 <= status < 300
    return Arrival(
        at, request.method, 0, 0, status, request.query, headers, admitted, key, 0, request.path
    )
