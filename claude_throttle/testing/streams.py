"""Scripted streams: unusual ones, and ones with faults.

``fake.script(Streamed(blocks=(…), omit_stop=True))``. A call that does not stream gets a successful
response with the same blocks. Here are the cases in which half an answer could be taken for a whole
one: a stream without ``message_stop``, one cut within an event, odd chunks and line ends, and event
types that a client does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from claude_throttle.testing import faults, plans, replies
from claude_throttle.testing.plans import CLOSE, ResponseContext, ResponsePart, ResponsePlan
from claude_throttle.testing.replies import Frame

#: The values of ``wrong``, a fault after ``at`` events.
CUT, STALL, RESET = "cut", "stall", "reset"


@dataclass(frozen=True)
class Streamed:
    """One streamed response, for the next request that the quotas admit.

    Immutable. Raises ValueError for an unknown *wrong*.
    """

    #: Content blocks: text, thinking, tool_use, compaction, fallback (which changes the model).
    #: Without any it is the answer that nobody scripted.
    blocks: tuple[Mapping[str, Any], ...] = ()
    #: Fields that replace those of the server's usage.
    usage: Optional[Mapping[str, Any]] = None
    #: All events of the stream, in place of those above. One without a type, and a text, has no
    #: ``event:`` line, as the errors of gateways; bytes are sent as they are.
    events: Optional[tuple[Frame, ...]] = None
    #: Seconds before each event but the first; ``None`` spreads the server's latency over them.
    seconds_between: Optional[float] = 0.0
    #: Events after which ``wrong`` happens: "cut" closes the connection within the next event,
    #: "reset" does so with RST, "stall" waits for ``release_stalled()``.
    at: Optional[int] = None
    wrong: str = CUT
    #: Pings before each event.
    pings: int = 0
    omit_stop: bool = False
    #: Bytes of each chunk of the body; 0: one chunk for each event.
    chunk_bytes: int = 0
    #: If false, the body has neither chunks nor a length: it ends with the connection.
    chunked: bool = True
    line_end: str = "\n"
    #: The body, in place of the events.
    body: Optional[bytes] = None
    #: More fields of the message; ``stop_details``, ``container`` and ``context_management`` come
    #: at its end.
    fields: Optional[Mapping[str, Any]] = None

    def __post_init__(self) -> None:
        if self.wrong not in (CUT, STALL, RESET):
            raise ValueError(f"wrong= must be {CUT!r}, {STALL!r} or {RESET!r}, not {self.wrong!r}")


@plans.plan_for.register(Streamed)
def _plan(scripted: Streamed, context: ResponseContext) -> ResponsePlan:
    message = _message(scripted, context)
    produced = message["usage"]["output_tokens"]
    if not context.call.streams:
        return plans.whole_plan(message, context)
    head = ResponsePart(0.0, plans.stream_head(context, scripted.chunked))
    line_end = scripted.line_end.encode()
    pieces = [replies.sse_frame(event, line_end) for event in _events(scripted, message)]
    if scripted.body is not None:
        pieces = [scripted.body]
    parts = _timed(pieces, _seconds(scripted, context, len(pieces)))
    ending = plans.KEEP if scripted.chunked else CLOSE
    if scripted.at is not None:
        parts, ending = _with_fault(scripted, parts, ending)
    if scripted.chunk_bytes:
        parts = _rechunked(parts, scripted.chunk_bytes)
    if scripted.chunked:
        parts = [part._replace(data=_chunk(part.data)) for part in parts]
        if ending == plans.KEEP:
            parts.append(ResponsePart(0.0, replies.chunk(b"")))
    return ResponsePlan((head, *parts), 200, True, produced, ending, context.call.limited_as)


def _message(scripted: Streamed, context: ResponseContext) -> dict[str, Any]:
    text = "" if scripted.blocks else None
    answer = faults.Ok(text, scripted.usage, scripted.blocks)
    message = plans.message_for(answer, context)
    return {**message, **(scripted.fields or {})}


def _events(scripted: Streamed, message: Mapping[str, Any]) -> list[Frame]:
    events: list[Frame] = [
        *replies.opening_events(message),
        *replies.block_events(message),
        *replies.closing_events(message),
    ]
    if scripted.events is not None:
        events = list(scripted.events)
    if scripted.omit_stop:
        events = [event for event in events if not _is_stop(event)]
    return [more for event in events for more in (*[{"type": "ping"}] * scripted.pings, event)]


def _is_stop(event: Frame) -> bool:
    return isinstance(event, Mapping) and event.get("type") == "message_stop"


def _seconds(scripted: Streamed, context: ResponseContext, events: int) -> float:
    if scripted.seconds_between is not None:
        return scripted.seconds_between
    return context.latency_seconds / max(1, events - 1)


def _timed(pieces: list[bytes], seconds: float) -> list[ResponsePart]:
    return [ResponsePart(seconds if index else 0.0, piece) for index, piece in enumerate(pieces)]


def _with_fault(
    scripted: Streamed, parts: list[ResponsePart], ending: str
) -> tuple[list[ResponsePart], str]:
    """The parts before the fault, and half of the one in which it happens.

    Half an event, because a cut between two events would look like a regular, though early, end.
    """
    before, rest = parts[: scripted.at], parts[scripted.at :]
    if scripted.wrong == STALL:
        return [*before, ResponsePart(None, b""), *rest], ending
    half = [rest[0]._replace(data=rest[0].data[: len(rest[0].data) // 2])] if rest else []
    return [*before, *half], CLOSE if scripted.wrong == CUT else plans.RESET


def _rechunked(parts: list[ResponsePart], size: int) -> list[ResponsePart]:
    """The bytes of *parts* in pieces of *size*, for a body in many chunks.

    Chunk borders then fall within an event, and within the bytes of one UTF-8 character, which a
    decoder must put together again.
    """
    rechunked = []
    for part in parts:
        data = part.data
        pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        rechunked += [
            ResponsePart(0.0 if index else part.delay_seconds, piece)
            for index, piece in enumerate(pieces)
        ]
    return rechunked


def _chunk(data: bytes) -> bytes:
    return replies.chunk(data) if data else b""
