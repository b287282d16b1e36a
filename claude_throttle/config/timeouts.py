"""The ``timeout=`` of a call: given, left to the settings, or none."""

from __future__ import annotations

from typing import Any, Optional, Union

from claude_throttle.config.validation import require_timeout


class Unset:
    """Tells "not given" from None, which means "as long as it takes"."""

    def __repr__(self) -> str:
        return "<from the settings>"


UNSET = Unset()

#: Seconds, or None, or left to the settings.
Timeout = Union[None, float, Unset]


def seconds_of(timeout: Timeout, default: Optional[float]) -> Optional[float]:
    """Seconds, checked; None for no limit. Raises ConfigurationError."""
    if isinstance(timeout, Unset):
        return default
    return None if timeout is None else checked(timeout)


def checked(timeout: Any) -> float:
    """*timeout* if it is a positive number."""
    require_timeout(timeout)
    return float(timeout)
