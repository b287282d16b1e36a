"""A body on its way to the official SDK, watched until it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Optional, Protocol

from claude_throttle.core.domain.cost import Usage
from claude_throttle.features.interop.usage_reader import UsageReader


class Watcher(Protocol):
    """Who waits for the end."""

    def end(self, usage: Optional[Usage], whole: bool) -> None:
        """It has ended, the *whole* of it or in the midst."""
        ...

    def drop(self, usage: Optional[Usage]) -> None:
        """The same in the midst, perhaps in garbage collection: takes no lock."""
        ...


class WatchedBody:
    """Tells a watcher once how a body ended."""

    def __init__(self, headers: Mapping[str, str], watcher: Watcher) -> None:
        self._meter = UsageReader(headers)
        # Whoever pops it tells: threads may close what another one reads.
        self._watchers = [watcher]

    def feed(self, chunk: bytes) -> None:
        """More of it."""
        self._meter.feed(chunk)

    def finished(self) -> None:
        """All of it was read."""
        self._meter.end()
        self.closed()

    def closed(self) -> None:
        """It is read no further."""
        try:
            watcher = self._watchers.pop()
        except IndexError:
            return
        # A generator that is dropped closes what it reads: that is the collector at work.
        if sys.exc_info()[0] is GeneratorExit:
            watcher.drop(self._meter.usage)
        else:
            watcher.end(self._meter.usage, self._meter.whole)


class WatchedHttpxStream:
    """The byte stream of an ``httpx`` response; whoever asks it for more gets the original's."""

    def __init__(self, stream: Any, watch: WatchedBody) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        feed = self._watch.feed
        for chunk in self._stream:
            feed(chunk)
            yield chunk
        self._watch.finished()

    def close(self) -> None:
        """Close the original, then tell."""
        try:
            self._stream.close()
        finally:
            self._watch.closed()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def metered(stream: Any, headers: Mapping[str, str], watcher: Watcher) -> Any:
    """*stream*, an ``httpx`` byte stream, that tells *watcher* how it ends."""
    kind: Any = type(stream)
    return _class_for(kind)(stream, WatchedBody(headers, watcher))


@lru_cache(maxsize=16)
def _class_for(kind: Any) -> Any:
    """The response asks for the class of ``httpx``, or ``httpx2``, itself."""
    bases = [base for base in kind.__mro__ if base.__name__ == "SyncByteStream"]
    return type("WatchedHttpxStream", (WatchedHttpxStream, *bases[:1]), {"__module__": __name__})
