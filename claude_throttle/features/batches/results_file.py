"""Keeps the results of a batch in a temporary file, to be read by their names.

The API returns them as JSON lines "not guaranteed to be in the same order as requests", and 100,000
of them may not fit in memory. So the lines go to a file without a name, which the system deletes
even if the process is killed, and only their places are in memory.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Callable, Optional

from claude_throttle.core.domain.cost import NO_USAGE
from claude_throttle.errors import BrokenAnswer
from claude_throttle.features.batches.wire_format import KINDS, SUCCEEDED, ResultLine, read_line
from claude_throttle.transport.verdicts import read_usage

logger = logging.getLogger("claude_throttle")

#: Bytes up to which the results stay in memory, without a file.
IN_MEMORY_BYTES = 32 * 1024 * 1024


class ResultsFile:
    """A temporary file of results, read by ``custom_id``.

    One thread fills it and seals it; then any thread may read it. Not to be used in a forked child,
    which shares the file's position with its parent: the handle raises Forked there.
    """

    def __init__(self, expected: Optional[Collection[str]]) -> None:
        # The names to keep; None for all.
        self._expected = expected
        # Guards the file's position: to read a line is a seek and a read.
        self._lock = threading.Lock()
        # The beginning of a line whose end has not arrived.
        self._rest = b""
        self._begin()

    def absorb(self, data: Optional[bytes]) -> None:
        """Add the next bytes. None begins again: the request for the results is sent anew."""
        if data is None:
            self.close()
            self._begin()
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._keep(line)

    def _begin(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - close()
        self._places: dict[str, tuple[int, int]] = {}
        self._rest = b""
        self._end = 0
        #: Results by kind, and what they took.
        self.kinds: Counter[str] = Counter()
        self.usage = NO_USAGE
        #: Lines without a usable result: broken, repeated, or of another request.
        self.strange = 0

    def seal(self) -> None:
        """Take the last line, which may have no line end: all bytes were added."""
        self._keep(self._rest)
        self._rest = b""
        self._file.flush()  # or a forked child would write it, too, when it closes its copy

    # Checked as it comes, and parsed again when it is read: parsed results would fill the memory.
    def _keep(self, data: bytes) -> None:
        if not data.strip():
            return
        line = read_line(data)
        if line is None or line.custom_id in self._places or not self._wants(line.custom_id):
            self.strange += 1
            return
        self._places[line.custom_id] = (self._end, len(data))
        self.kinds[line.kind if line.kind in KINDS else "unknown"] += 1
        self._add_usage(line)
        self._file.write(data)
        self._end += len(data)

    def _add_usage(self, line: ResultLine) -> None:
        message = line.content if line.kind == SUCCEEDED else None
        usage = None if message is None else read_usage(message)
        if usage is not None:
            self.usage = self.usage.plus(usage)

    def _wants(self, custom_id: str) -> bool:
        return self._expected is None or custom_id in self._expected

    def message_at(self, custom_id: str) -> Optional[ResultLine]:
        """The result of that request; None without one."""
        place = self._places.get(custom_id)
        if place is None:
            return None
        with self._lock:
            self._file.seek(place[0])
            data = self._file.read(place[1])
        return read_line(data)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def __del__(self) -> None:
        self._file.close()


def fetch_results(
    results: Callable[[Callable[[Optional[bytes]], Any]], None],
    names: Optional[Collection[str]],
    wanted: int,
) -> ResultsFile:
    """Fetch a batch's results into a file: *results* sends the request, with a function for bytes.

    *names* are the custom_ids to keep, None for all; *wanted* is the number of results to expect.
    Fetches a second time if lines are missing or broken, since a proxy may have answered in the
    API's place. Raises :class:`BrokenAnswer` if no result can be read, so that the caller tries
    again later: they are paid for, and the API still has them.
    """
    if names is not None:
        names = frozenset(names)
        wanted = min(wanted, len(names))
    for _ in range(2):
        file = ResultsFile(names)
        results(file.absorb)
        file.seal()
        if not file.strange and len(file) >= wanted:
            return file
    if wanted and not len(file):
        raise BrokenAnswer(
            f"none of a batch's {wanted} results can be read in what was answered; "
            "they are paid for, and can be asked for again"
        )
    missing, strange = wanted - len(file), file.strange
    logger.warning("of a batch, %d results are missing, %d lines are no results", missing, strange)
    return file
