"""The output file: one line per answer, appended as it comes, and read to resume a run.

The newest line of an id counts. An id that succeeded is done; one that errored is sent again by the
next run. A line that a kill cut off (torn) does not count: its call is sent again, too.

A line has the digest of its request. An answer to another request (another model, another text) is
not taken for the answer; but an older line that is the answer is copied to the end instead of being
paid for again. Lines of versions that wrote no digest count for any request of their id.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, BinaryIO

from claude_throttle.cli import CannotStart

#: The field of an output line that holds the digest of its request.
DIGEST = "request_digest"


@dataclass(frozen=True)
class Recorded:
    """The results that earlier runs left in the output.

    The class is frozen, its sets are not: :class:`claude_throttle.cli.batch_job.BatchJob` adds the
    ids that succeed during the run.
    """

    succeeded: set[str] = field(default_factory=set)
    errored: set[str] = field(default_factory=set)
    #: By id that succeeded: the digest of the request, where the line has one.
    digests: dict[str, str] = field(default_factory=dict)
    #: Ids and digests of answers that later lines replaced.
    replaced: set[tuple[str, str]] = field(default_factory=set)
    #: The number of lines that are not results.
    unreadable: int = 0
    #: The last line has no newline.
    torn: bool = False

    def add_newest(self, custom_id: str, succeeded: bool, digest: str) -> None:
        """Add a line that is newer than all others; *digest* is "" if it has none."""
        before = self.digests.pop(custom_id, "")
        if before:
            self.replaced.add((custom_id, before))
        now, other = (self.succeeded, self.errored)[:: 1 if succeeded else -1]
        now.add(custom_id)
        other.discard(custom_id)
        if succeeded and digest:
            self.digests[custom_id] = digest

    def forget(self, custom_id: str) -> None:
        """Take the answer of an id for none: its line is sent again."""
        self.succeeded.discard(custom_id)
        self.digests.pop(custom_id, None)


def read_recorded(lines: Iterable[bytes]) -> Recorded:
    """Read an output line by line; only the ids stay in memory.

    A later line of an id replaces an earlier one. Lines that are not results are counted, not
    refused: the file may have been edited, and must not make a run impossible.
    """
    recorded = Recorded()
    unreadable = 0
    line = b"\n"
    for line in lines:
        custom_id, kind, digest = _read_result(line)
        if kind:
            recorded.add_newest(custom_id, kind == "succeeded", digest)
        elif line.strip():
            unreadable += 1
    return replace(recorded, unreadable=unreadable, torn=not line.endswith(b"\n"))


def _read_result(line: bytes) -> tuple[str, str, str]:
    """The id, the type and the digest in *line*; three times "" if it is no result."""
    try:
        value = json.loads(line)
        custom_id, kind = value["custom_id"], value["result"]["type"]
        digest = value.get(DIGEST)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", "", ""
    whole = isinstance(custom_id, str) and isinstance(kind, str)
    return (custom_id, kind, digest if isinstance(digest, str) else "") if whole else ("", "", "")


class Results:
    """Appends results to the output. Thread-safe.

    Raises OSError if the disk is full, BrokenPipeError if the reader of a pipe has ended. *path* is
    read again for answers that later lines replaced. *origin* is "" for answers of the API; others,
    such as those of a fake API, never count as such, while answers of the API count for all.
    """

    def __init__(
        self, stream: BinaryIO, recorded: Recorded, *, path: str = "", origin: str = ""
    ) -> None:
        self.recorded = recorded
        self._stream = stream
        self._path = path
        self._origin = origin
        # Guards _stream and _line_is_open: two lines must not be mixed.
        self._lock = threading.Lock()
        self._line_is_open = recorded.torn

    def has_answer(self, custom_id: str, digest: str) -> bool:
        """Whether the request is answered. Its answer is the newest line of its id then."""
        recorded, wanted = self.recorded, (digest, self._origin + digest)
        newest = recorded.digests.get(custom_id, digest)
        if custom_id in recorded.succeeded and newest in wanted:
            return True
        older = [each for each in wanted if (custom_id, each) in recorded.replaced]
        return bool(older) and self._copy_to_end(custom_id, older[0])

    def _copy_to_end(self, custom_id: str, digest: str) -> bool:
        """Make a replaced answer the newest line of its id; False if it is not there any more."""
        place = self._places.get((custom_id, digest))
        if place is None:
            return False
        with open(self._path, "rb") as lines:
            lines.seek(place)
            self._append(lines.readline())
        self.recorded.add_newest(custom_id, True, digest)
        return True

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        """Where the answers begin that later lines replaced."""
        places = {}
        place = 0
        with open(self._path, "rb") as lines:
            for line in lines:
                custom_id, kind, digest = _read_result(line)
                if kind == "succeeded" and (custom_id, digest) in self.recorded.replaced:
                    places[custom_id, digest] = place
                place += len(line)
        return places

    def append(self, custom_id: str, result: Mapping[str, Any], digest: str = "") -> None:
        """Write one line, and flush it to the operating system before returning.

        So a killed process loses nothing. There is no ``fsync``: it helps only if the machine loses
        power, and costs milliseconds of the disk for each answer. *digest* is the request's.
        """
        row = {"custom_id": custom_id, "result": result}
        if digest:
            row[DIGEST] = self._origin + digest
        # Only a lone surrogate cannot be encoded; Python's backslash escape of it is JSON's, too.
        self._append(
            json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        )

    def _append(self, data: bytes) -> None:
        with self._lock:
            if self._line_is_open:
                data = b"\n" + data
            # Stays True if a full disk or Ctrl-C cuts the line here.
            self._line_is_open = True
            self._write_all(data)
            self._line_is_open = False

    def _write_all(self, data: bytes) -> None:
        # A raw file may write less than it is given.
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) :]
        self._stream.flush()


@contextlib.contextmanager
def results_file(path: str, origin: str = "") -> Iterator[tuple[BinaryIO, Results]]:
    """Open an output to append to, lock it, and read the results of earlier runs.

    Raises :class:`CannotStart` if that fails, or if another run holds the lock.
    """
    try:
        # Unbuffered: data that a full disk refused must not be written again on close.
        stream: BinaryIO = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below; here only its opening may fail
    except OSError as error:
        raise CannotStart(f"cannot write {path}: {error.strerror}") from None
    with stream:
        _lock_for_this_run(stream, path)
        yield stream, Results(stream, _recorded_in(path), path=path, origin=origin)


def _lock_for_this_run(stream: BinaryIO, path: str) -> None:
    # Two runs over one output would both pay for every call. The lock ends with the process,
    # however it ends. On a file system without locks, and on Windows, the run goes on without one.
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(f"another run is writing {path}") from None
    except OSError:
        pass


def _recorded_in(path: str) -> Recorded:
    """The results in the file at *path*, which may be missing or no regular file."""
    # A pipe or /dev/null has no earlier results, and reading a pipe would block.
    if not os.path.isfile(path):
        return Recorded()
    try:
        with open(path, "rb") as lines:
            return read_recorded(lines)
    except OSError as error:
        raise CannotStart(f"cannot read {path} to resume: {error.strerror}") from None
