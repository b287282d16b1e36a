"""The official SDK's words for "this argument was not given", known without its import."""

from __future__ import annotations

from typing import Any


def is_not_given(value: Any) -> bool:
    """Whether *value* is ``NOT_GIVEN``, ``not_given`` or ``omit``, of whichever SDK version."""
    kind = type(value)
    # OpenAI's SDK is made by the same generator, and in many programs that call both.
    return kind.__name__ in ("NotGiven", "Omit") and kind.__module__.startswith(
        ("anthropic", "openai")
    )
