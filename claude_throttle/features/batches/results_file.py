"""Results of a batch, as they come: in any order, and perhaps more than fit in memory."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Collection, Iterator
from typing import Any, Callable, Optional

from claude_throttle.errors import BrokenAnswer
from claude_throttle.features.batches.wire_format import ResultLine, read_line

logger = logging.getLogger("claude_throttle")

#: Bytes that are kept in memory.
IN_MEMORY_BYTES = 32 * 1024 * 1024


class ResultsFile:
    """Takes results in; gives them out by ``custom_id``. Filled by one thread, read by any."""

    def __init__(self, expected: Optional[Collection[str]]) -> None:
        # None: whatever comes.
        self._expected = expected
        # Guards the file: a look is a seek and a read.
        self._lock = threading.Lock()
        # The beginning of a line whose end has not come.
        self._rest = b""
        self._begin()

    def take(self, data: Optional[bytes]) -> None:
        """The next bytes; None: all begins anew."""
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
        #: Lines that are no result of ours: broken, of nobody we asked for, or there before.
        self.strange = 0

    def seal(self) -> None:
        """That was all."""
        self._keep(self._rest)
        self._rest = b""
        self._file.flush()  # or a forked child would write it, too, when it lets go of its copy

    def _keep(self, data: bytes) -> None:
        if not data.strip():
            return
        line = read_line(data)
        if line is None or line.custom_id in self._places or not self._wants(line.custom_id):
            self.strange += 1
            return
        self._places[line.custom_id] = (self._end, len(data))
        self._file.write(data)
        self._end += len(data)

    def _wants(self, custom_id: str) -> bool:
        return self._expected is None or custom_id in self._expected

    def get(self, custom_id: str) -> Optional[ResultLine]:
        """The result of that request, if one came."""
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
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def __del__(self) -> None:
        self._file.close()


def bring(
    results: Callable[[Callable[[Optional[bytes]], Any]], None],
    names: Optional[Collection[str]],
    wanted: int,
) -> ResultsFile:
    """What *results* brings to the function it is given: those of *names*, *wanted* at least.

    Twice, if need be: what stands between may have answered in the API's place. Raises
    :class:`BrokenAnswer` if not one of them can be read: they are paid for, and still there.
    """
    if names is not None:
        names = frozenset(names)
        wanted = min(wanted, len(names))
    for _ in range(2):
        spool = ResultsFile(names)
        results(spool.take)
        spool.seal()
        if not spool.strange and len(spool) >= wanted:
            return spool
    if wanted and not len(spool):
        raise BrokenAnswer(
            f"none of a batch's {wanted} results can be read in what was answered; "
            "they are paid for, and can be asked for again"
        )
    missing, strange = wanted - len(spool), spool.strange
    logger.warning("of a batch, %d results are missing, %d lines are none", missing, strange)
    return spool
