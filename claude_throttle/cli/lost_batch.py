"""What a run says when it cannot tell its own batch, whose creation was lost, from another run's.

Only names of requests are shown by the API. To take another run's answers would be wrong, and to
send the requests again may be to pay twice: so a person decides, and is told all there is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import NamedTuple

import claude_throttle
from claude_throttle.cli.batch_journal import JournalEntry


class Candidate(NamedTuple):
    """A batch that may be the one that was lost."""

    state: claude_throttle.BatchState
    #: Those that answered, as far as there are results.
    models: frozenset[str] = frozenset()

    def __str__(self) -> str:
        state = self.state
        by = f"answered by {', '.join(sorted(self.models))}" if self.models else "no answer"
        said = by if state.ended else "in progress, so its custom_ids are not known yet"
        return f"{state.id}, created {state.created_at[:40]}: {said}"


def whose(attempt: JournalEntry, found: Sequence[Candidate], journal: str) -> str:
    """The question to the user, with the command for either answer, for *journal*'s next lines."""
    asked_at = datetime.fromtimestamp(attempt.at, timezone.utc)
    one = found[0].state.id
    return "\n".join(
        [
            f"batch {one} has the custom_ids of a batch that an earlier run may have created, and "
            "so may that of another run: nothing is sent, and no answer is taken",
            f"asked for by this machine's clock at {asked_at:%Y-%m-%dT%H:%M:%SZ}, with "
            f"{attempt.count:,} request{'s' * (attempt.count != 1)}; it may be:",
            *(f"  {each}" for each in found),
            "if one of these is yours, its answers are taken after (with its id)",
            f"  {_command({'created': one, 'requests': attempt.digest}, journal)}",
            "if none is, the lines are sent, and paid, as new after",
            f"  {_command({'not created': True, 'requests': attempt.digest}, journal)}",
            "then run the same command again; see examples/guides/command_line.md, “A batch that "
            "may be another's”",
        ]
    )


def _command(line: dict[str, object], journal: str) -> str:
    return f"echo {shlex.quote(json.dumps(line))} >> {shlex.quote(journal)}"
