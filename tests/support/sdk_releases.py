"""What the installed release of the official SDK has, and what stands there for what it lacks."""

from __future__ import annotations

import contextlib
import importlib
import inspect

import anthropic
from anthropic import _types

#: Its words for an argument that is not given.
NOT_GIVEN = _types.NOT_GIVEN
OMIT = getattr(anthropic, "omit", None) or _types.Omit()


def _accumulators():
    """Those of its functions that take a stream's events as they come from the wire."""
    found = {}
    if not hasattr(anthropic.BaseModel, "__pydantic_fields_set__"):
        return found  # with pydantic 1 they leave the JSON that they read in the message
    for name, module in {"stable": "_messages", "beta": "_beta_messages"}.items():
        with contextlib.suppress(ImportError, AttributeError):
            streaming = importlib.import_module(f"anthropic.lib.streaming.{module}")
            if "BaseModel" in inspect.getsource(streaming.accumulate_event):
                found[name] = streaming.accumulate_event
    return found


ACCUMULATORS = _accumulators()

#: What not every release has, and whether this one does.
CAPABILITIES = {
    "accumulators": bool(ACCUMULATORS),
    "batches": hasattr(anthropic.resources.messages.Messages, "batches"),
    "parse": hasattr(anthropic.resources.messages.Messages, "parse"),
    "middleware": hasattr(anthropic, "Middleware"),
    "text events": hasattr(anthropic.lib.streaming, "TextEvent"),
    "tools": "tools" in inspect.signature(anthropic.resources.Messages.create).parameters,
}

#: The base of each class that old releases lack: what their own client raises.
_NEAREST = {"RequestTooLargeError": "APIStatusError", "OverloadedError": "InternalServerError"}


def error_class(name):
    """That class of exception, which some releases have without showing it, or its nearest base."""
    for module in (anthropic, anthropic._exceptions):
        if hasattr(module, name):
            return getattr(module, name)
    return getattr(anthropic, _NEAREST[name])


def text_block():
    """The class of a text block; the oldest releases have one class for all blocks."""
    return getattr(anthropic.types, "TextBlock", anthropic.types.ContentBlock)


def accumulated(events, name="stable"):
    """The message that the SDK's own stream makes of *events*."""
    accumulate = ACCUMULATORS[name]
    more = {"json_bufs": {}, "request_headers": {}}
    more = {k: v for k, v in more.items() if k in inspect.signature(accumulate).parameters}
    snapshot = None
    for event in events:
        if event["type"] != "ping":
            snapshot = accumulate(event=event, current_snapshot=snapshot, **more)
    return snapshot
