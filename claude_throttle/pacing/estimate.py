"""What a call will cost, before anybody knows.

Input tokens are guessed from the text, output tokens from ``max_tokens``; both guesses are scaled
by what the answers so far turned out to be.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from claude_throttle.flow.cost import Cost

#: English text per token of the models since 2025; the share learned from ``usage`` corrects it.
BYTES_PER_TOKEN = 3.6

#: Tokens of an image at the size the API scales it down to, about (w * h) / 750
#: (vision page, 2026-09).
IMAGE_TOKENS = 1600

#: Tokens a page of a PDF takes, and its usual size in base64 characters: a coarse guess.
DOCUMENT_CHARACTERS_PER_TOKEN = 40

#: Tokens of framing around each message.
MESSAGE_TOKENS = 4

#: What counts as input besides the messages.
_TEXT_PARAMETERS = ("system", "tools", "mcp_servers")


def guess_input_tokens(params: Mapping[str, Any]) -> float:
    """Input tokens of a Messages request, by the size of its text; not yet scaled."""
    total = 0.0
    for message in params["messages"]:
        total += MESSAGE_TOKENS + _tokens(
            message.get("content") if isinstance(message, dict) else ""
        )
    for name in _TEXT_PARAMETERS:
        if name in params:
            total += _tokens(params[name])
    return max(1.0, total)


def _tokens(value: Any) -> float:
    if isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        return size / BYTES_PER_TOKEN
    if isinstance(value, dict):
        return _block_tokens(value)
    if isinstance(value, (list, tuple)):
        return sum(map(_tokens, value))
    return 0.0


def _block_tokens(block: Mapping[str, Any]) -> float:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") not in ("text", "content"):
        data = source.get("data")
        if block.get("type") == "document" and isinstance(data, str):
            return len(data) / DOCUMENT_CHARACTERS_PER_TOKEN
        return float(IMAGE_TOKENS)
    return sum(_tokens(key) + _tokens(value) for key, value in block.items() if key != "type")


class Share:
    """A ratio learned from pairs (part, whole): by sums, so that large calls weigh as they cost."""

    #: What is kept of the past with each new pair: about the last forty count.
    MEMORY = 0.975

    def __init__(self, prior: float, weight: float) -> None:
        self._part = prior * weight
        self._whole = weight

    @property
    def value(self) -> float:
        return self._part / self._whole

    def learn(self, part: float, whole: float) -> None:
        """One more pair."""
        self._part = self._part * self.MEMORY + part
        self._whole = self._whole * self.MEMORY + whole


class Estimator:
    """Learns, for one lane, how guesses relate to what the server counts. Thread-safe."""

    #: Before the first answer, half of ``max_tokens``: high enough not to overshoot a small quota,
    #: and soon forgotten.
    FIRST_OUTPUT_SHARE = 0.5

    def __init__(self) -> None:
        # Guards both shares. Held for arithmetic only.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._input = Share(1.0, weight=200.0)
        self._output = Share(self.FIRST_OUTPUT_SHARE, weight=200.0)

    def cost(self, guessed_input: float, max_tokens: int) -> Cost:
        """The cost to book for a call."""
        with self._lock:
            return Cost(1.0, guessed_input * self._input.value, max_tokens * self._output.value)

    def learn(
        self, guessed_input: float, input_tokens: float, max_tokens: int, output_tokens: float
    ) -> None:
        """What an answered call really took."""
        with self._lock:
            if input_tokens > 0:
                self._input.learn(input_tokens, guessed_input)
            self._output.learn(output_tokens, max_tokens)
