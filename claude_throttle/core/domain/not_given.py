"""The official SDK's words for "this argument was not given", known without its import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Union

if TYPE_CHECKING:
    from anthropic._types import NotGiven, Omit

    T = TypeVar("T")
    #: What may be left out by a value, as the SDK takes it.
    Given = Union[T, NotGiven, Omit]


def is_not_given(value: Any) -> bool:
    """Whether *value* is ``NOT_GIVEN``, ``not_given`` or ``omit``, of whichever SDK version."""
    kind = type(value)
    # OpenAI's SDK is made by the same generator, and in many programs that call both.
    return kind.__name__ in ("NotGiven", "Omit") and kind.__module__.startswith(
        ("anthropic", "openai")
    )
