"""The output file: one line per answer, appended as it comes, and read to resume a run.

The newest line of an id counts. An id that succeeded is done; one that errored is sent again by the
next run. A line that a kill cut off (torn) does not count: its call is sent again, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from claude_throttle.cli import CannotStart


@dataclass(frozen=True)
class Recorded:
    """The results that earlier runs left in the output.

    The class is frozen, its sets are not: :class:`claude_throttle.cli.batch_job.BatchJob` adds the
    ids that succeed during the run.
    """

    succeeded: set[str] = field(default_factory=set)
    errored: set[str] = field(default_factory=set)
    #: The number of lines that are not results.
    unreadable: int = 0
    #: The last line has no newline.
    torn: bool = False


def read_recorded(lines: Iterable[bytes]) -> Recorded:
    """Read an output line by line; only the ids stay in memory.

    A later line of an id replaces an earlier one. Lines that are not results are counted, not
    refused: the file may have been edited, and must not make a run impossible.
    """
    succeeded: set[str] = set()
    errored: set[str] = set()
    unreadable = 0
    line = b"\n"
    for line in lines:
        custom_id, kind = _read_result(line)
        if kind == "succeeded":
            succeeded.add(custom_id)
            errored.discard(custom_id)
        elif kind:
            errored.add(custom_id)
            succeeded.discard(custom_id)
        elif line.strip():
            unreadable += 1
    return Recorded(succeeded, errored, unreadable, torn=not line.endswith(b"\n"))


def _read_result(line: bytes) -> tuple[str, str]:
    try:
        value = json.loads(line)
        custom_id, kind = value["custom_id"], value["result"]["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""
    whole = isinstance(custom_id, str) and isinstance(kind, str)
    return (custom_id, kind) if whole else ("", "")


class Results:
    """Appends results to the output. Thread-safe.

    Raises OSError if the disk is full, BrokenPipeError if the reader of a pipe has ended.
    """

    def __init__(self, stream: BinaryIO, recorded: Recorded) -> None:
        self.recorded = recorded
        self._stream = stream
        # Guards _stream and _line_is_open: two lines must not be mixed.
        self._lock = threading.Lock()
        self._line_is_open = recorded.torn

    def append(self, custom_id: str, result: Mapping[str, Any]) -> None:
        """Write one line, and flush it to the operating system before returning.

        So a killed process loses nothing. There is no ``fsync``: it helps only if the machine loses
        power, and costs milliseconds of the disk for each answer.
        """
        line = json.dumps({"custom_id": custom_id, "result": result}, ensure_ascii=False)
        # Only a lone surrogate cannot be encoded; Python's backslash escape of it is JSON's, too.
        data = line.encode("utf-8", "backslashreplace") + b"\n"
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
def results_file(path: str) -> Iterator[tuple[BinaryIO, Results]]:
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
        yield stream, Results(stream, _recorded_in(path))


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
