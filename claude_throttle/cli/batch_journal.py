"""Which batches a run has made: a file beside its output, added to and read again to resume.

Lines of JSON. A batch is noted before it is made and when its id is known, so that a kill at any
point leaves a trace; and when its results are in the output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Optional

from claude_throttle.cli.exits import CannotStart

SUFFIX = ".batches"


def digest_of(custom_ids: Iterable[str]) -> str:
    """A name for a set of requests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(custom_ids)).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class JournalEntry:
    """A batch of which nobody knows whether it was made."""

    digest: str
    count: int
    #: Seconds since 1970.
    at: float


@dataclass
class Noted:
    """What earlier runs left."""

    #: Made, and not yet in the output; oldest first.
    open_ids: list[str] = field(default_factory=list)
    known_ids: set[str] = field(default_factory=set)
    unsure: list[JournalEntry] = field(default_factory=list)

    def take(self, line: dict[str, Any]) -> None:
        """One more line."""
        digest = line.get("requests")
        if "creating" in line:
            self.unsure.append(JournalEntry(str(digest), int(line["creating"]), float(line["at"])))
            return
        if "created" in line:
            self.open_ids.append(line["created"])
            self.known_ids.add(line["created"])
        elif "collected" in line:
            self.open_ids = [one for one in self.open_ids if one != line["collected"]]
        if digest is not None:
            self.unsure = [attempt for attempt in self.unsure if attempt.digest != digest]


class Journal:
    """Of one run. Owned by one thread; the lock on the output keeps other runs away."""

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self.path = path
        self.noted = Noted()
        self._stream = stream
        stream.seek(0)
        lines = stream.read().split(b"\n")
        for data in lines:
            try:
                self.noted.take(json.loads(data))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut short by a kill: what it was about is unsure, as it should be
        if lines[-1]:
            stream.write(b"\n")

    def creating(self, custom_ids: Sequence[str], wall: float) -> None:
        """These are about to be sent."""
        self._note({"creating": len(custom_ids), "requests": digest_of(custom_ids), "at": wall})

    def created(self, batch_id: str, digest: str) -> None:
        """They are a batch."""
        self._note({"created": batch_id, "requests": digest})

    def never_created(self, digest: str) -> None:
        """They are none."""
        self._note({"not created": True, "requests": digest})

    def collected(self, batch_id: str) -> None:
        """Its results are in the output."""
        self._note({"collected": batch_id})

    def _note(self, line: dict[str, Any]) -> None:
        left = memoryview(json.dumps(line).encode() + b"\n")
        while left:
            left = left[self._stream.write(left) :]
        self.noted.take(line)


@contextlib.contextmanager
def journal_beside(output: Optional[str]) -> Iterator[Journal]:
    """The journal of the run that writes *output*; one in which nothing was noted goes again."""
    if output is None:
        raise CannotStart("--batch needs -o OUT: its batches are noted beside it, in OUT.batches")
    # However it is spelled: each of its names must lead to the same journal.
    path = os.path.realpath(output) + SUFFIX
    try:
        # Unbuffered: a line is with the system when it is written.
        stream: BinaryIO = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed below; here only its opening may fail
    except OSError as error:
        raise CannotStart(f"cannot write {path}: {error.strerror}") from None
    with stream:
        try:
            yield Journal(path, stream)
        finally:
            if os.fstat(stream.fileno()).st_size == 0:
                os.unlink(path)
