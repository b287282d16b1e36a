"""Streamed answers with something wrong in them, or just odd, to be scripted.

``fake.script(Streamed(blocks=(…), omit_stop=True))``. A call that does not stream gets a good
answer with the same blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from claude_throttle.testing import faults, plans, replies
from claude_throttle.testing.plans import CLOSE, Plan, ResponsePart, Scene

#: What "wrong" can be after *at* events.
CUT, STALL, RESET = "cut", "stall", "reset"


@dataclass(frozen=True)
class Streamed:
    """One streamed answer, without asking the quotas."""

    #: Content blocks: text, thinking, tool_use; none echoes the last user text.
    blocks: tuple[Mapping[str, Any], ...] = ()
    #: Put over the usage the server would have told.
    usage: Optional[Mapping[str, Any]] = None
    #: Sent in place of all that; the last ones of a stream included.
    events: Optional[tuple[Mapping[str, Any], ...]] = None
    #: Before each event but the first; ``None`` spreads the server's latency over them.
    seconds_between: Optional[float] = 0.0
    #: Events after which it ends ("cut": the connection is closed in the midst of the next one;
    #: "reset": with RST) or waits for ``release_stalled()`` ("stall").
    at: Optional[int] = None
    wrong: str = CUT
    #: Pings sent before each event.
    pings: int = 0
    omit_stop: bool = False
    #: Bytes of each chunk of the body, whatever the events' borders; 0: one event, one chunk.
    chunk_bytes: int = 0
    #: The body has neither chunks nor a length: it ends with the connection.
    chunked: bool = True
    line_end: str = "\n"
    #: Sent as it is, in place of the events.
    body: Optional[bytes] = None

    def __post_init__(self) -> None:
        if self.wrong not in (CUT, STALL, RESET):
            raise ValueError(f"wrong= is {CUT!r}, {STALL!r} or {RESET!r}, not {self.wrong!r}")


@plans.plan_for.register(Streamed)
def _plan(scripted: Streamed, scene: Scene) -> Plan:
    message = _message(scripted, scene)
    produced = message["usage"]["output_tokens"]
    if not scene.call.streams:
        return plans.whole_plan(message, scene)
    head = ResponsePart(0.0, plans.stream_head(scene, scripted.chunked))
    pieces = [_encoded(event, scripted.line_end) for event in _events(scripted, message)]
    if scripted.body is not None:
        pieces = [scripted.body]
    parts = _timed(pieces, _seconds(scripted, scene, len(pieces)))
    ending = plans.KEEP if scripted.chunked else CLOSE
    if scripted.at is not None:
        parts, ending = _spoilt(scripted, parts, ending)
    if scripted.chunk_bytes:
        parts = _recut(parts, scripted.chunk_bytes)
    if scripted.chunked:
        parts = [part._replace(data=_chunk(part.data)) for part in parts]
        if ending == plans.KEEP:
            parts.append(ResponsePart(0.0, replies.chunk(b"")))
    return Plan((head, *parts), 200, True, produced, ending, scene.call.model)


def _message(scripted: Streamed, scene: Scene) -> dict[str, Any]:
    message = plans.message_for(faults.Ok(usage=scripted.usage), scene)
    if scripted.blocks:
        message["content"] = [dict(block) for block in scripted.blocks]
    return message


def _events(scripted: Streamed, message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    events: list[Mapping[str, Any]] = [
        *replies.opening_events(message),
        *replies.block_events(message),
        *replies.closing_events(message),
    ]
    if scripted.events is not None:
        events = list(scripted.events)
    if scripted.omit_stop:
        events = [event for event in events if event["type"] != "message_stop"]
    return [more for event in events for more in (*[{"type": "ping"}] * scripted.pings, event)]


def _encoded(event: Mapping[str, Any], line_end: str) -> bytes:
    lines = [b"event: " + event["type"].encode(), b"data: " + replies.to_json(event), b"", b""]
    return line_end.encode().join(lines)


def _seconds(scripted: Streamed, scene: Scene, events: int) -> float:
    if scripted.seconds_between is not None:
        return scripted.seconds_between
    return scene.latency_seconds / max(1, events - 1)


def _timed(pieces: list[bytes], seconds: float) -> list[ResponsePart]:
    return [ResponsePart(seconds if place else 0.0, piece) for place, piece in enumerate(pieces)]


def _spoilt(
    scripted: Streamed, parts: list[ResponsePart], ending: str
) -> tuple[list[ResponsePart], str]:
    before, rest = parts[: scripted.at], parts[scripted.at :]
    if scripted.wrong == STALL:
        return [*before, ResponsePart(None, b""), *rest], ending
    half = [rest[0]._replace(data=rest[0].data[: len(rest[0].data) // 2])] if rest else []
    return [*before, *half], CLOSE if scripted.wrong == CUT else plans.RESET


def _recut(parts: list[ResponsePart], size: int) -> list[ResponsePart]:
    recut = []
    for part in parts:
        data = part.data
        pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        recut += [
            ResponsePart(0.0 if place else part.delay_seconds, piece)
            for place, piece in enumerate(pieces)
        ]
    return recut


def _chunk(data: bytes) -> bytes:
    return replies.chunk(data) if data else b""
