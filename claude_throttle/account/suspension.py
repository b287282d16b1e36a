"""The state of a suspension: the API refuses the account for a spend limit, a bill, a key.

Waiting does not cure that, so nothing is sent except a probe from time to time, which finds out
whether the bill was paid or the key mended. Pure state; its holder does the locking.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

#: Seconds until the first probe, doubled with each that is refused, and the longest wait. Minutes,
#: because a person has to act before it can succeed.
FIRST_PROBE_SECONDS = 60.0
LONGEST_PROBE_SECONDS = 900.0


class Suspension(NamedTuple):
    """Why nothing is sent, and when it is tried again."""

    #: In one or two words: "spend limit", "key refused" ...
    reason: str
    #: The server's own words.
    message: str
    #: When access comes back, in the server's own words.
    until: Optional[str]
    #: Instant of the next probe.
    probe_at: float
    #: Seconds between the last refusal and that probe.
    gap_seconds: float
    #: Instant of the first refusal.
    since: float
    #: A probe is out.
    probing: bool = False

    def seconds_until_probe(self, now: float) -> float:
        """Until a probe may leave; 0.0 if one may."""
        return max(0.0, self.probe_at - now)

    def probed(self, now: float) -> Suspension:
        """A probe is let through; the next one if nothing is heard of it for as long."""
        return self._replace(probe_at=now + self.gap_seconds, probing=True)


def suspend(
    reason: str, message: str, until: Optional[str], now: float, before: Optional[Suspension]
) -> Suspension:
    """The account was refused; *before* is how it stood, None if it was in order."""
    if before is None:
        return Suspension(
            reason, message, until, now + FIRST_PROBE_SECONDS, FIRST_PROBE_SECONDS, now
        )
    if not before.probing:
        return before  # it was in flight when the first was refused
    gap = min(LONGEST_PROBE_SECONDS, 2 * before.gap_seconds)
    return Suspension(reason, message, until, now + gap, gap, before.since)
