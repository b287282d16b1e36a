"""A line on stderr that says how far it is: a bar with tqdm installed, a plain line without.

Shown only to people: a stderr that is no terminal gets what is said, and nothing else.
"""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from typing import Callable, Optional, Protocol

from claude_throttle import Limits

#: Seconds between two looks.
REFRESH_SECONDS = 0.25
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class Snapshot:
    """How far it is."""

    finished: int
    #: None if nobody knows, as with a pipe.
    total: Optional[int]
    words: str


class Display(Protocol):
    """Something that shows one snapshot after another in the same place."""

    def show(self, snapshot: Snapshot) -> None:
        """Put this one in the place of the last."""
        ...

    def clear(self) -> None:
        """Make room for a line of text."""
        ...

    def close(self) -> None:
        """Leave the last one standing."""
        ...


class PlainLine:
    """Needs nothing but a terminal."""

    def show(self, snapshot: Snapshot) -> None:
        total = "?" if snapshot.total is None else snapshot.total
        text = f"{snapshot.finished}/{total}, {snapshot.words}"
        width = shutil.get_terminal_size().columns - 1
        print(_CLEAR_LINE + text[:width], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        print(file=sys.stderr, flush=True)


class Bar:
    """The same with tqdm; raises ImportError without it."""

    def __init__(self) -> None:
        from tqdm import tqdm

        # Its monitor is a thread that looks after bars nobody refreshes; this one is refreshed.
        tqdm.monitor_interval = 0
        # A terminal that does not tell its size has none for tqdm, which then shows nothing.
        width, height = shutil.get_terminal_size()
        self._bar = tqdm(file=sys.stderr, bar_format=_BAR, ncols=width, nrows=height)

    def show(self, snapshot: Snapshot) -> None:
        self._bar.ncols = shutil.get_terminal_size().columns
        self._bar.total = snapshot.total
        self._bar.n = snapshot.finished
        self._bar.set_postfix_str(snapshot.words, refresh=True)

    def clear(self) -> None:
        self._bar.clear()

    def close(self) -> None:
        self._bar.close()


def best_display() -> Display:
    """The bar, or the line."""
    try:
        return Bar()
    except ImportError:
        return PlainLine()


def watched(quiet: bool) -> bool:
    """Whether somebody is there to look."""
    return not quiet and sys.stderr.isatty()


class Progress:
    """Looks and shows, a few times a second, in a thread of its own.

    The caller's thread may be blocked for long, in a full queue or an empty pipe.
    """

    def __init__(self, look: Callable[[], Snapshot], *, quiet: bool = False) -> None:
        self._look = look
        self._display: Optional[Display] = None
        self._watched = watched(quiet)
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_showing, name="claude-throttle-progress", daemon=True
        )
        # Guards the terminal: a word and a bar must not be written into each other.
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self._watched:
            self._display = best_display()
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._display is not None:
            self._thread.join()
            self._display.show(self._look())
            self._display.close()
            self._display = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        with self._lock:
            if self._display is not None:
                self._display.clear()
            print(text, file=sys.stderr, flush=True)

    def _keep_showing(self) -> None:
        display = self._display
        while display is not None and not self._over.wait(REFRESH_SECONDS):
            snapshot = self._look()
            with self._lock:
                display.show(snapshot)


def in_words(
    *,
    rate_per_minute: float,
    waiting: int,
    refused: int,
    tokens: int,
    eta: Optional[float],
    learned: Optional[float] = None,
) -> str:
    """What a person wants to know of a run, in one line."""
    words = [
        f"{rate_per_minute:,.0f}/min",
        f"{waiting:,} waiting",
        f"{refused:,} 429s",
        f"{tokens:,} tokens",
    ]
    if learned is not None:
        words.append(f"{learned:,.0f} rpm learned")
    if eta is not None:
        words.append(f"ETA {clock_face(eta)}")
    return ", ".join(words)


def learned_rpm(limits: Limits) -> Optional[float]:
    """Requests a minute as the answers told, over all models; None if nobody told."""
    quotas = [quota for lane in limits.values() for quota in lane.quotas]
    told = [q.learned for q in quotas if q.kind == "requests" and q.learned is not None]
    return sum(told) if told else None


def clock_face(seconds: float) -> str:
    """``3:07`` or ``1:02:07``."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
