"""Lines that cannot be sent, told on stderr: by their numbers, but never a million of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

#: Lines reported one by one; more would only scroll the cause away.
REPORTED_LINES = 50


class LineErrors:
    """Of one run. Not thread-safe: the thread that reads the lines owns it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told = 0
        # What an argument of the command would mend: number of the first such line, and how many
        # came after it.
        self._first: dict[str, int] = {}
        self._more: Counter[str] = Counter()

    def add(self, number: int, reason: str, mended_at_once: bool) -> None:
        """One more line, and what is wrong with it."""
        if mended_at_once:
            if reason in self._first:
                self._more[reason] += 1
                return
            self._first[reason] = number
        self._told += 1
        if self._told <= REPORTED_LINES:
            self._say(f"line {number}: {reason}")
        elif self._told == REPORTED_LINES + 1:
            self._say("there are more such lines; the output has the reason of each")

    def sum_up(self) -> None:
        """How many more there were of what was told once."""
        for reason, count in self._more.items():
            lines = "line" if count == 1 else "lines"
            self._say(f"{count:,} more {lines} like line {self._first[reason]}")
