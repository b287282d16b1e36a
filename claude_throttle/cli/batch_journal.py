"""The journal of ``run --batch``: a file beside the output that records the batches it created.

It has one JSON object per line, and is read to resume a run. A batch is recorded before it is
created, when its id is known, and when its results are in the output, so a kill at any point leaves
a trace.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Optional

from claude_throttle.cli import CannotStart

#: Appended to the output's path, after symbolic links are resolved.
SUFFIX = ".batches"


def digest_of(custom_ids: Iterable[str]) -> str:
    """A digest of a set of requests, independent of their order."""
    return hashlib.sha256("\n".join(sorted(custom_ids)).encode()).hexdigest()[:32]


def name_at_api(custom_id: str, digest: str) -> str:
    """The name under which a request without a name of its own is sent: it shows the content.

    Line numbers alone are the same in each run over the same file, whatever its options.
    """
    return f"{custom_id}-{digest[:12]}"


def own_name(name: str, digests: Mapping[str, str]) -> str:
    """The ``custom_id`` of the line that was sent under *name*."""
    digest = digests.get(name, "")
    suffix = name_at_api("", digest)
    return name[: -len(suffix)] if digest and name.endswith(suffix) else name


@dataclass(frozen=True)
class JournalEntry:
    """A batch that was about to be created; whether it was is unknown.

    ``digest`` and ``count`` are of its requests, and enough to recognise it at the API.
    """

    digest: str
    count: int
    #: Seconds since 1970.
    at: float
    #: The digest of each request, by the name it has at the API; empty in older journals.
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def is_recognisable(self) -> bool:
        """Whether the names at the API show the requests, so that no other batch has the same."""
        return not self.digests or any(
            name != own_name(name, self.digests) for name in self.digests
        )


@dataclass
class JournalContents:
    """The batches that earlier runs recorded, as the lines of the journal leave them.

    An attempt is *unsure* from "creating" until "created" or "not created" with the same digest.
    """

    #: Created, and not yet in the output; oldest first.
    open_ids: list[str] = field(default_factory=list)
    known_ids: set[str] = field(default_factory=set)
    unsure: list[JournalEntry] = field(default_factory=list)
    #: The digests of the requests in each batch that is not in the output, as far as recorded.
    digests: dict[str, dict[str, str]] = field(default_factory=dict)

    def record(self, line: dict[str, Any]) -> None:
        """Add one line of the journal."""
        digest = line.get("requests")
        if "creating" in line:
            count, at, digests = int(line["creating"]), float(line["at"]), line.get("digests", {})
            self.unsure.append(JournalEntry(str(digest), count, at, dict(digests)))
            return
        if "created" in line:
            self.open_ids.append(line["created"])
            self.known_ids.add(line["created"])
            attempts = (attempt.digests for attempt in self.unsure if attempt.digest == digest)
            self.digests[line["created"]] = next(attempts, {})
        elif "collected" in line:
            self.open_ids = [one for one in self.open_ids if one != line["collected"]]
            self.digests.pop(line["collected"], None)
        if digest is not None:
            self.unsure = [attempt for attempt in self.unsure if attempt.digest != digest]


class Journal:
    """The journal of one run. Owned by one thread; the output's lock keeps other runs away.

    Reading skips lines that a kill cut off. If the last line has no newline, one is added, so that
    the next line does not continue it.
    """

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self.path = path
        self.contents = JournalContents()
        self._stream = stream
        stream.seek(0)
        lines = stream.read().split(b"\n")
        for data in lines:
            try:
                self.contents.record(json.loads(data))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut off by a kill: its batch remains unsure, which is right
        if lines[-1]:
            stream.write(b"\n")

    def creating(self, digests: Mapping[str, str], wall: float) -> None:
        """Record that a batch of these requests, by their names at the API, is about to be made."""
        line = {"creating": len(digests), "requests": digest_of(digests), "at": wall}
        self._write({**line, "digests": dict(digests)})

    def created(self, batch_id: str, digest: str) -> None:
        """Record that the requests of *digest* are batch *batch_id*."""
        self._write({"created": batch_id, "requests": digest})

    def never_created(self, digest: str) -> None:
        """Record that no batch of these requests exists."""
        self._write({"not created": True, "requests": digest})

    def collected(self, batch_id: str) -> None:
        """Record that the results of *batch_id* are in the output."""
        self._write({"collected": batch_id})

    def _write(self, line: dict[str, Any]) -> None:
        """Write one line at once, without a buffer, and only then take it as recorded.

        An OSError, as from a full disk, keeps a batch from being created: one without a record
        could be paid for twice.
        """
        left = memoryview(json.dumps(line).encode() + b"\n")
        while left:
            left = left[self._stream.write(left) :]
        self.contents.record(line)


@contextlib.contextmanager
def journal_beside(output: Optional[str]) -> Iterator[Journal]:
    """Open the journal of the run that writes *output*. An empty one is deleted at the end.

    Raises :class:`CannotStart` without an output, or if the file cannot be written.
    """
    if output is None:
        raise CannotStart("--batch needs -o OUT: its batches are recorded in OUT.batches")
    # Each path of the same output must lead to the same journal.
    path = os.path.realpath(output) + SUFFIX
    try:
        # Unbuffered: a written line survives a kill.
        stream: BinaryIO = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed below; here only its opening may fail
    except OSError as error:
        raise CannotStart(f"cannot write {path}: {error.strerror}") from None
    with stream:
        try:
            yield Journal(path, stream)
        finally:
            if os.fstat(stream.fileno()).st_size == 0:
                os.unlink(path)
