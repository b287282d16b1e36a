"""Parts that most programs need none of: loaded on use, or all would pay for their import."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.account.model_groups import Rooms
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import Senders
from claude_throttle.transport.http import Wire

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.account.rate_limits_api import Organization
    from claude_throttle.account.suspensions import Access
    from claude_throttle.core.pacing.concurrency_limiter import Concurrency
    from claude_throttle.features.batches.client import BatchDesk
    from claude_throttle.features.sharing.coordinator import Clerk
    from claude_throttle.features.token_counting.counter import Counter


def counter(settings: Settings, wire: Wire, senders: Senders, clock: Clock) -> Optional[Counter]:
    """Who counts tokens before a call leaves, if the API is to do it."""
    if settings.count_tokens != "api":
        return None
    from claude_throttle.features.token_counting.counter import Counter

    return Counter(settings, wire, senders, clock)


def lane_beside(
    counter: Optional[Counter], settings: Settings, senders: Senders, clock: Clock, name: str
) -> Lane:
    """The lane of what has a quota beside the models'; the counter's own, if that is meant."""
    if counter is not None and counter.lane.name == name:
        return counter.lane
    from claude_throttle.account.endpoint_lanes import side_lane

    return side_lane(name, settings, senders, clock)


def organization(
    settings: Settings, wire: Wire, rooms: Rooms, senders: Senders
) -> Optional[Organization]:
    """Who asks for the organization's limits, if there is a key for that."""
    if not settings.admin_key:
        return None
    from claude_throttle.account.rate_limits_api import Organization

    return Organization(settings, wire, rooms, senders)


def clerk(
    settings: Settings,
    permits: Concurrency,
    rooms: Rooms,
    access: Access,
    median_latency: Callable[[], float],
    clock: Clock,
) -> Optional[Clerk]:
    """Who keeps this process in step with those it shares its quotas with, if any."""
    if settings.shared is None:
        return None
    from claude_throttle.features.sharing.open_store import make_clerk

    return make_clerk(settings, permits, rooms, access, median_latency, clock)


def batch_desk(
    settings: Settings, wire: Wire, senders: Senders, admission: Admission, clock: Clock
) -> Callable[[], BatchDesk]:
    """Makes who asks about batches, on its first call; two threads at once may get two."""
    return lru_cache(1)(partial(_make_batch_desk, settings, wire, senders, admission, clock))


def _make_batch_desk(
    settings: Settings, wire: Wire, senders: Senders, admission: Admission, clock: Clock
) -> BatchDesk:
    from claude_throttle.features.batches.client import BatchDesk

    return BatchDesk(settings, wire, senders, admission, clock)
