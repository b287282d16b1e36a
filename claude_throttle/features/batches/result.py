"""What users read of batches: their progress, and the result of one request.

Each result has a message or an error, never an exception to catch: one failed request of 100,000
must not keep its caller from the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from claude_throttle.errors import BrokenAnswer, Unprocessed
from claude_throttle.features.batches import wire_format
from claude_throttle.features.batches.wire_format import ResultLine
from claude_throttle.transport import sdk

#: The kind of a result that the API did not return, or returned in a form that cannot be read.
MISSING = "missing"


class BatchProgress(NamedTuple):
    """How many requests are in which state.

    The API counts all of a batch as processing until the whole batch has ended.
    """

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int

    @property
    def total(self) -> int:
        """The number of all requests."""
        return sum(self)


class BatchResult(NamedTuple):
    """How one request ended. Pickles; does not hold the request."""

    custom_id: str
    #: ``anthropic.types.Message``, or a dict with ``raw=True``; None without one.
    message: Optional[Any]
    #: The official SDK's exception, :class:`Unprocessed`, :class:`BrokenAnswer`; None if all well.
    error: Optional[Exception]
    #: "succeeded", "errored", "canceled", "expired", or "missing": the API returned no result.
    kind: str


def result_of(
    name: str, line: Optional[ResultLine], raw: bool, url: str, gone: Optional[Exception] = None
) -> BatchResult:
    """The result of the request called *name*, read from its *line*.

    *gone*: the refusal to tell of its batch, if there was one.
    """
    if line is None and gone is not None:
        return BatchResult(name, None, gone, MISSING)
    if line is None or line.kind not in wire_format.KINDS:
        told = "nothing" if line is None else f"only {line.kind!r:.40}"
        error = BrokenAnswer(f"the API tells {told} of request {name}; it may be billed")
        return BatchResult(name, None, error, MISSING)
    if line.kind == wire_format.SUCCEEDED and line.content is not None:
        message = line.content if raw else sdk.build_message(line.content, None)
        return BatchResult(name, message, None, line.kind)
    if line.content is not None:
        return BatchResult(name, None, wire_format.error_of(url, line.content), line.kind)
    text = f"request {name} was {line.kind} before its turn came; it is not billed"
    return BatchResult(name, None, Unprocessed(text, reason=line.kind), line.kind)
