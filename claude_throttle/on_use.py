"""Parts that most programs need none of: loaded on use, or all would pay for their import."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.account.model_groups import ModelGroups
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.transport.http import HttpTransport

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.account.rate_limits_api import OrganizationLimits
    from claude_throttle.account.suspensions import Suspensions
    from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
    from claude_throttle.features.batches.client import BatchClient
    from claude_throttle.features.sharing.coordinator import Coordinator
    from claude_throttle.features.token_counting.counter import TokenCounter


def counter(
    settings: Settings, wire: HttpTransport, senders: ThreadPool, clock: Clock
) -> Optional[TokenCounter]:
    """Who counts tokens before a call leaves, if the API is to do it."""
    if settings.count_tokens != "api":
        return None
    from claude_throttle.features.token_counting.counter import TokenCounter

    return TokenCounter(settings, wire, senders, clock)


def lane_beside(
    counter: Optional[TokenCounter],
    settings: Settings,
    senders: ThreadPool,
    clock: Clock,
    name: str,
) -> Lane:
    """The lane of what has a quota beside the models'; the counter's own, if that is meant."""
    if counter is not None and counter.lane.name == name:
        return counter.lane
    from claude_throttle.account.endpoint_lanes import side_lane

    return side_lane(name, settings, senders, clock)


def organization(
    settings: Settings, wire: HttpTransport, rooms: ModelGroups, senders: ThreadPool
) -> Optional[OrganizationLimits]:
    """Who asks for the organization's limits, if there is a key for that."""
    if not settings.admin_key:
        return None
    from claude_throttle.account.rate_limits_api import OrganizationLimits

    return OrganizationLimits(settings, wire, rooms, senders)


def clerk(
    settings: Settings,
    permits: ConcurrencyLimiter,
    rooms: ModelGroups,
    access: Suspensions,
    median_latency: Callable[[], float],
    clock: Clock,
) -> Optional[Coordinator]:
    """Who keeps this process in step with those it shares its quotas with, if any."""
    if settings.shared is None:
        return None
    from claude_throttle.features.sharing.open_store import make_clerk

    return make_clerk(settings, permits, rooms, access, median_latency, clock)


def batch_desk(
    settings: Settings, wire: HttpTransport, senders: ThreadPool, admission: Admission, clock: Clock
) -> Callable[[], BatchClient]:
    """Makes who asks about batches, on its first call; two threads at once may get two."""
    return lru_cache(1)(partial(_make_batch_desk, settings, wire, senders, admission, clock))


def _make_batch_desk(
    settings: Settings, wire: HttpTransport, senders: ThreadPool, admission: Admission, clock: Clock
) -> BatchClient:
    from claude_throttle.features.batches.client import BatchClient

    return BatchClient(settings, wire, senders, admission, clock)
