"""What the headers of a refusal make the official SDK do: sleep, and try again or not.

They are changed in the response that the SDK reads next, whichever way it came there.
"""

from __future__ import annotations

from typing import Any, Optional

from claude_throttle.core.pacing.backoff import LONGEST_UNPROBED_SECONDS, PAUSE_PROBE_SECONDS
from claude_throttle.transport.limit_values import FIRST_INSTANT, read_number
from claude_throttle.transport.verdicts import retry_after


def steer_retries(answer: Any, again: Optional[bool], wall: float) -> None:
    """Have the SDK try a refusal *again* or not (None: as it likes), and not sleep for too long.

    *wall* is now, in seconds since 1970.
    """
    if answer.status_code < 400:
        return
    _shorten_sleep(answer.headers, wall)
    if again is not None:
        answer.headers["x-should-retry"] = "true" if again else "false"


def _shorten_sleep(headers: Any, wall: float) -> None:
    """Have the SDK sleep no longer than until the lane's first probe; its next attempt waits then.

    It would take an instant since 1970 for a number of seconds, and sleep for weeks.
    """
    named, number = retry_after(headers, wall), read_number(headers.get("retry-after"))
    if named is None or (named <= LONGEST_UNPROBED_SECONDS and (number or 0.0) < FIRST_INSTANT):
        return
    seconds = named if named <= LONGEST_UNPROBED_SECONDS else PAUSE_PROBE_SECONDS[0]
    headers["retry-after-ms"] = f"{seconds * 1000:.0f}"
