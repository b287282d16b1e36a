"""A progress line on stderr: a bar if tqdm is installed, otherwise plain text.

It is shown on a terminal only; elsewhere stderr gets only messages.
"""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from typing import Callable, Optional, Protocol

from claude_throttle import Limits

#: Seconds between two updates.
REFRESH_SECONDS = 0.25
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run at one moment: counts, and words for the rest."""

    finished: int
    #: None if it is unknown, as for a pipe.
    total: Optional[int]
    words: str
    #: Stands in front of the counts, where even a narrow terminal shows it.
    headline: str = ""


class Display(Protocol):
    """Shows one snapshot after another in the same place. Used by one thread at a time."""

    def show(self, snapshot: Snapshot) -> None:
        """Replace the last snapshot by this one."""
        ...

    def clear(self) -> None:
        """Clear the line, so that a message can be printed."""
        ...

    def close(self) -> None:
        """End with the last snapshot visible."""
        ...


class PlainLine:
    """A display of plain text, for terminals where tqdm is not installed."""

    def show(self, snapshot: Snapshot) -> None:
        total = "?" if snapshot.total is None else snapshot.total
        headline = f"{snapshot.headline}: " if snapshot.headline else ""
        text = f"{headline}{snapshot.finished}/{total}, {snapshot.words}"
        width = shutil.get_terminal_size().columns - 1
        print(_CLEAR_LINE + text[:width], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        print(file=sys.stderr, flush=True)


class Bar:
    """A display with a bar of tqdm; raises ImportError if tqdm is not installed.

    The size of the terminal is read again for each update, because the user may change it.
    """

    def __init__(self) -> None:
        from tqdm import tqdm

        # tqdm's monitor is a thread that refreshes bars; this bar is refreshed by Progress.
        tqdm.monitor_interval = 0
        # On a terminal without a known size tqdm would show nothing.
        width, height = shutil.get_terminal_size()
        self._bar = tqdm(file=sys.stderr, bar_format=_BAR, ncols=width, nrows=height)

    def show(self, snapshot: Snapshot) -> None:
        self._bar.ncols = shutil.get_terminal_size().columns
        self._bar.total = snapshot.total
        self._bar.n = snapshot.finished
        self._bar.set_description_str(snapshot.headline and f"{snapshot.headline}: ", refresh=False)
        self._bar.set_postfix_str(snapshot.words, refresh=True)

    def clear(self) -> None:
        self._bar.clear()

    def close(self) -> None:
        self._bar.close()


def best_display() -> Display:
    """A bar if tqdm is installed, otherwise plain text."""
    try:
        return Bar()
    except ImportError:
        return PlainLine()


def is_shown(quiet: bool) -> bool:
    """Whether progress is shown: on a terminal, unless *quiet*."""
    return not quiet and sys.stderr.isatty()


class Progress:
    """Shows snapshots a few times a second, from a thread of its own. Use it as a context manager.

    The caller's thread may be blocked for long, in a full queue or an empty pipe. *snapshot* is
    called in this other thread, and must be safe there. :meth:`say` may be called from any thread.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], *, quiet: bool = False) -> None:
        self._snapshot = snapshot
        self._display: Optional[Display] = None
        self._is_shown = is_shown(quiet)
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_showing, name="claude-throttle-progress", daemon=True
        )
        # Guards the terminal: a message and a bar must not be mixed.
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self._is_shown:
            self._display = best_display()
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._display is not None:
            self._thread.join()
            self._display.show(self._snapshot())
            self._display.close()
            self._display = None

    def say(self, text: str) -> None:
        """Print a line above the bar; on stderr, also where no progress is shown."""
        with self._lock:
            if self._display is not None:
                self._display.clear()
            print(text, file=sys.stderr, flush=True)

    def _keep_showing(self) -> None:
        """Refresh the display until the end. Runs in the thread.

        The snapshot is taken without the lock: it may take locks of its own.
        """
        display = self._display
        while display is not None and not self._over.wait(REFRESH_SECONDS):
            snapshot = self._snapshot()
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
    """The state of a run, in one line."""
    words = [
        f"{rate_per_minute:,.0f}/min",
        f"{waiting:,} waiting",
        counted(refused, "429"),
        counted(tokens, "token"),
    ]
    if learned is not None:
        words.append(f"{learned:,.0f} rpm learned")
    if eta is not None:
        words.append(f"ETA {clock_face(eta)}")
    return ", ".join(words)


def counted(count: int, what: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def learned_rpm(limits: Limits) -> Optional[float]:
    """Learned requests a minute, over all models; None if none are learned.

    Each model's limit is its own, so the sum is what the run can reach if it uses all of them.
    """
    quotas = [quota for lane in limits.values() for quota in lane.quotas]
    learned = [q.learned for q in quotas if q.kind == "requests" and q.learned is not None]
    return sum(learned) if learned else None


def clock_face(seconds: float) -> str:
    """``3:07`` or ``1:02:07``."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
