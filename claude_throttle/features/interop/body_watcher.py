"""Watches the body of a response on its way to its reader, until it ends.

The usage of a streamed answer comes at its end, so the permit must stay open until then. The trap:
a body may be read to its end, closed, cut off or dropped, by any thread. The permit must be settled
exactly once, and without a lock where the garbage collector ends the body.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.features.interop.httpx_refusals import with_base
from claude_throttle.transport.usage_reader import UsageReader


class WatchedBody:
    """Reads a body's usage as it passes, and tells its attempt once how the body ended.

    feed() and finished() belong to the reading thread; closed() may be called from any.
    """

    def __init__(self, headers: Mapping[str, str], attempt: AdmittedAttempt) -> None:
        self._usage_reader = UsageReader(headers)
        # The thread that pops the attempt reports to it: one thread may close what another reads.
        self._untold = [attempt]
        self._wire_time = attempt.wire_time

    def begin_read(self) -> Optional[float]:
        """The instant at which a read begins, for feed(); None if no time is taken."""
        return None if self._wire_time is None else self._wire_time.now()

    def feed(self, chunk: bytes, began: Optional[float] = None) -> None:
        """Read the usage in the next chunk, before its reader gets it; *began*: begin_read()."""
        if began is not None and self._wire_time is not None:
            self._wire_time.end_read(began)
        self._usage_reader.feed(chunk)

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on *chunks*, to their end, as they are read."""
        began = self.begin_read()
        for chunk in chunks:
            self.feed(chunk, began)
            yield chunk
            began = self.begin_read()
        self.finished()

    def finished(self) -> None:
        """The whole body was read."""
        self._usage_reader.end()
        self.closed()

    def closed(self) -> None:
        """The body is read no further. Idempotent."""
        try:
            attempt = self._untold.pop()
        except IndexError:
            return
        # A dropped generator closes what it reads: then this runs in the garbage collector.
        if sys.exc_info()[0] is GeneratorExit:
            attempt.body_dropped(self._usage_reader.usage)
        else:
            attempt.body_ended(self._usage_reader.usage, self._usage_reader.whole)


class WatchedHttpxStream:
    """An ``httpx`` byte stream that is watched; all other attributes are the original's.

    It passes on the same chunks, and raises what the original raises.
    """

    def __init__(self, stream: Any, watched: WatchedBody) -> None:
        self._stream = stream
        self._watched = watched

    def __iter__(self) -> Iterator[bytes]:
        return self._watched.watch(self._stream)

    def close(self) -> None:
        """Close the original, then report the end."""
        try:
            self._stream.close()
        finally:
            self._watched.closed()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def watch_stream(stream: Any, headers: Mapping[str, str], attempt: AdmittedAttempt) -> Any:
    """Wrap an ``httpx`` byte stream, so that *attempt* is told how it ends."""
    # A response of httpx or httpx2 checks that it is of the library's own base.
    bases = [base for base in type(stream).__mro__ if base.__name__ == "SyncByteStream"]
    return with_base(WatchedHttpxStream, *bases[:1])(stream, WatchedBody(headers, attempt))
