"""A request's values as JSON can say them, made of what people put into one.

As the official SDK sends them: pydantic models by their aliases and without unset fields, the typed
blocks of a response among them; tuples, sets and generators as lists; dates as ISO 8601; a path or
a file as base64 where ``{"type": "base64", "data": …}`` asks for it; ``NOT_GIVEN`` and ``omit`` are
left out. Besides: dataclasses, enums, numpy's numbers. Everything else is refused by the name of
its field, with what to write instead. Only a request that json cannot write comes here.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import io
import math
import os
import pathlib
import re
from collections import UserString
from collections.abc import Iterator, Mapping, MappingView, Sequence, Set
from datetime import date
from typing import Any, Callable

from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.errors import InvalidCall

#: What has a length or an order, and is no list: its characters or bytes are one value.
_NO_LISTS = (str, bytes, bytearray, memoryview, UserString, io.IOBase, os.PathLike)

_LISTS = (list, tuple, Sequence, Set, MappingView, Iterator)

#: What is read where base64 is asked for.
_FILES = (pathlib.Path, io.IOBase)

#: Names that a field may have in an error. Others may be a user's own words.
_FIELD = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)

#: Steps of a path that an error shows.
_SHOWN_STEPS = 10

#: What to write instead, by the name of a class that the value is of.
_INSTEAD = {
    "bytes": "base64.b64encode(…).decode(), or text with .decode()",
    "bytearray": "base64.b64encode(…).decode(), or text with .decode()",
    "memoryview": "base64.b64encode(…).decode()",
    "PathLike": "str(path), or its content with path.read_text()",
    "PurePath": "str(path), or its content with path.read_text()",
    "_IOBase": "its content: file.read()",
    "UserString": "str(…)",
    "Promise": "str(…)",  # Django's lazy texts
    "LazyObject": "str(…)",
    "LocalProxy": "str(…), or what it stands for",
    "QuerySet": "list(value.values())",
    "Future": "future.result().content",
    "MessageStream": "stream.get_final_message().content",
    "Decimal": "float(…) or str(…)",
    "Fraction": "float(…) or str(…)",
    "complex": "str(…)",
    "UUID": "str(…)",
    "time": "value.isoformat()",
    "timedelta": "value.total_seconds()",
    "ndarray": "value.tolist()",
    "Series": "value.tolist(), or value.to_dict()",
    "DataFrame": 'value.to_dict("records")',
    "Exception": "str(…)",
    "coroutine": "await, in an asynchronous program",
    "function": 'its description: {"name": …, "description": …, "input_schema": {…}}',
    "NAType": "None, or leave it out",
    "NaTType": "None, or leave it out",
}


def plain_copy(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of *params* that json can write. Raises :class:`InvalidCall`."""
    copier = _Copier()
    try:
        copied: dict[str, Any] = copier.mapping(params)
    except RecursionError:
        raise copier.refusal("is nested too deeply, or it contains itself") from None
    except RuntimeError:
        raise copier.refusal(
            "was changed while it was read, perhaps by another thread: give the call a copy"
        ) from None
    return copied


def _is_response(value: Any) -> bool:
    """Whether it is a whole response: the SDK's ``Message``, or the dict of ``raw=True``."""
    whole = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return whole.get("type") == "message" and "role" in whole and "content" in whole


class _Copier:
    """Copies one request, and knows where in it the value stands that is being copied."""

    def __init__(self) -> None:
        # The names and positions that lead to it.
        self._steps: list[Any] = []
        # The ids of the values around it: one that comes again contains itself.
        self._around: set[int] = set()

    def refusal(self, flaw: str) -> InvalidCall:
        """The error for the value at hand, of which it shows nothing."""
        return InvalidCall(f"the request cannot be written as JSON: {self._path()} {flaw}")

    def mapping(self, value: Mapping[Any, Any]) -> dict[Any, Any]:
        """A mapping as a dict, without what was not given."""
        copied = {}
        for key, inner in list(value.items()):
            if is_not_given(inner):
                continue
            name = self._key(key)
            self._steps.append(name)
            if key == "data" and isinstance(inner, _FILES) and value.get("type") == "base64":
                copied[name] = self._base64(inner)
            else:
                copied[name] = self._value(inner)
            self._steps.pop()
        return copied

    def _path(self) -> str:
        path = ""
        for step in self._steps[:_SHOWN_STEPS]:
            name = step if isinstance(step, str) and _FIELD.fullmatch(step) else "…"
            path += f"[{step}]" if type(step) is int else f".{name}" if path else name
        return path + ("…" if len(self._steps) > _SHOWN_STEPS else "") or "it"

    def _value(self, value: Any) -> Any:
        if value is None or value is True or value is False:
            return value
        kind = type(value)  # isinstance() believes a proxy that says it is a string
        if issubclass(kind, str):
            return self._text(value)
        if issubclass(kind, (int, float)):
            return self._number(value)
        if isinstance(value, date) and value == value:  # pandas' NaT is a date, and not itself
            return value.isoformat()
        if id(value) in self._around:
            raise self.refusal("is what it stands in: it contains itself")
        self._around.add(id(value))
        try:
            copied = self._opened(value)
        except (InvalidCall, RuntimeError):
            raise
        except Exception as error:
            raise self.refusal(f"cannot be read: it raised {type(error).__name__}") from error
        self._around.discard(id(value))
        return copied

    def _opened(self, value: Any) -> Any:
        if len(self._steps) == 2 and self._steps[0] == "messages" and _is_response(value):
            # The API takes no other fields of a response in a message of a request.
            whole = value if isinstance(value, Mapping) else vars(value)
            return self.mapping({name: whole[name] for name in ("role", "content")})
        if isinstance(value, (dict, Mapping)):
            return self.mapping(value)
        kind = type(value)
        is_stream = hasattr(kind, "get_final_message")  # ours or the SDK's: no list of its events
        if isinstance(value, _LISTS) and not isinstance(value, _NO_LISTS) and not is_stream:
            return self._items(value)
        if hasattr(kind, "__pydantic_serializer__") and hasattr(kind, "model_dump"):
            return self._dumped(value, value.model_dump, mode="json", warnings=False)
        if kind is not type and hasattr(kind, "__fields__") and hasattr(kind, "dict"):
            return self._dumped(value, value.dict)
        if dataclasses.is_dataclass(kind) and not isinstance(value, type):
            fields = dataclasses.fields(kind)
            return self.mapping({each.name: getattr(value, each.name) for each in fields})
        return self._value(self._simpler(value))

    def _dumped(self, value: Any, dump: Callable[..., Any], **options: Any) -> Any:
        left_out = getattr(type(value), "__api_exclude__", None)
        try:
            found = dump(by_alias=True, exclude_unset=True, exclude=left_out, **options)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - its words may quote what it holds
            name = type(value).__name__
            raise self.refusal(f"is a {name} that raised {type(error).__name__}") from None
        return self._value(found)

    def _simpler(self, value: Any) -> Any:
        """What stands for an enum's member, a tool of the SDK's or a number of numpy's."""
        if isinstance(value, enum.Enum):
            return value.value
        kind = type(value)
        if kind.__module__.startswith("anthropic.") and hasattr(kind, "to_dict"):
            return value.to_dict()
        if hasattr(kind, "dtype") and hasattr(kind, "item") and getattr(value, "shape", None) == ():
            number = value.item()
            if type(number) is not kind:
                return number
        raise self._unfit(value)

    def _items(self, value: Any) -> list[Any]:
        copied = []
        for number, item in enumerate(list(value)):
            self._steps.append(number)
            copied.append(self._value(item))
            self._steps.pop()
        return copied

    def _key(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._text(key)
        if isinstance(key, float) and not math.isfinite(key):
            raise self.refusal("has NaN or infinity as a key")
        if key is None or isinstance(key, (int, float)):
            return key  # json makes text of it
        raise self.refusal(f"has a key that is a {type(key).__name__}: write a string")

    def _text(self, value: str) -> str:
        text = value if type(value) is str else str.__str__(value)  # a member of an enum
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidCall(
                "the request holds half a surrogate pair, which is no valid text, in "
                f"{self._path()}"
            ) from None
        return text

    def _number(self, value: Any) -> Any:
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self.refusal(
                    f"is {float(value)}: NaN and infinity have no place there; leave it out, or "
                    "write None"
                )
            return float(value)
        number = int.__index__(value)
        try:
            str(number)
        except ValueError:
            raise self.refusal("is a whole number of too many digits") from None
        return number

    def _base64(self, file: Any) -> str:
        try:
            content = file.read_bytes() if isinstance(file, pathlib.Path) else file.read()
            content = content.encode() if isinstance(content, str) else content
            encoded = base64.b64encode(content).decode()
        except (OSError, ValueError, TypeError) as error:
            raise self.refusal(f"is a file that cannot be read ({type(error).__name__})") from error
        if not encoded:  # read by the call before, as a retry of the caller's own would
            raise self.refusal("is a file with nothing left to read: give each call its own")
        return encoded

    def _unfit(self, value: Any) -> InvalidCall:
        if is_not_given(value):
            return self.refusal("is omit or NOT_GIVEN, which has no place in a list: leave it out")
        if isinstance(value, type):
            schema = "anthropic.transform_schema(Model)"
            if self._steps == ["output_format"]:
                schema = (
                    f'output_config={{"format": {{"type": "json_schema", "schema": {schema}}}}}'
                )
            return self.refusal(f"is a class; for its schema write {schema}")
        names = (base.__name__ for base in type(value).__mro__)
        instead = next((f": write {_INSTEAD[name]}" for name in names if name in _INSTEAD), "")
        return self.refusal(f"is of type {type(value).__name__}, which JSON lacks{instead}")
