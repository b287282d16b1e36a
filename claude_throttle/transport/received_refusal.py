"""A refusal as it came, before it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional


class ReceivedRefusal(NamedTuple):
    """A refusal as it came, and what was read of it at once."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: The body as JSON, or None.
    answer: Any
    #: ``error.message``, or "".
    message: str
    #: ``error.details.error_code``, or None.
    code: Optional[str]
