"""The Rate Limits API: an admin key reads the limits of the whole organization.

``GET /v1/organizations/rate_limits``, admin key; shapes of SDK 2.11.0 (``types/organization``) and
of the API's page (platform.claude.com/docs/en/manage-claude/rate-limits-api, 2026-10). New groups
and limiters may come any day: what is not understood is ignored, nothing here raises.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Optional, Protocol
from urllib.parse import quote

from claude_throttle.account.model_groups import ModelGroups
from claude_throttle.config.settings import Settings
from claude_throttle.core.domain.models import lane_of
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.transport.http import HttpTransport
from claude_throttle.transport.verdicts import read_json

logger = logging.getLogger("claude_throttle")

#: The limiters that are kept, and which part of a cost they limit. Of the two for input an account
#: may have both; the plain one counts reads from the cache, too (SDK 2.11.0). The others that exist
#: (``tokens_per_day``, ``tokens_per_minute``, ``fast_otpm`` …) are sums, or other pools.
LIMITERS = {
    "requests_per_minute": "requests",
    "input_tokens_per_minute": "input_tokens",
    "input_tokens_per_minute_cache_aware": "input_tokens",
    "output_tokens_per_minute": "output_tokens",
}

#: The only type of group that limits messages; batches, files, skills … have pools of their own.
MODEL_GROUP = "model_group"

#: Units per minute. More is no limit but a slip, and would overflow somewhere.
MOST = 1e15

NO_LIMITS: Mapping[str, float] = MappingProxyType({})


class RateLimitGroup(NamedTuple):
    """Models that share one rate limit."""

    #: Ids and aliases, as the API spells them.
    models: tuple[str, ...]
    #: Units per minute, by "requests", "input_tokens", "output_tokens"; without what it left out.
    limits: Mapping[str, float]


def read_groups(pages: Iterable[Any]) -> list[RateLimitGroup]:
    """The model groups of an answer, given as its decoded *pages*, in their order."""
    groups = (_group(entry) for page in pages for entry in _items(page, "data"))
    return [group for group in groups if group is not None]


def limits_of(model: str, groups: Iterable[RateLimitGroup]) -> Mapping[str, float]:
    """What holds for *model*; empty if no group is its.

    A group that names it goes before one that names another model of its lane.
    """
    groups = list(groups)
    lane = lane_of(model)
    for group in groups:
        if model in group.models:
            return group.limits
    for group in groups:
        if any(lane_of(other) == lane for other in group.models):
            return group.limits
    return NO_LIMITS


def _group(entry: Any) -> Optional[RateLimitGroup]:
    models = tuple(name for name in _items(entry, "models") if isinstance(name, str))
    if not models or not _limits_messages(entry):
        return None
    return RateLimitGroup(models, MappingProxyType(_limits(entry)))


def _limits_messages(entry: Mapping[str, Any]) -> bool:
    """By ``group.type``, or the older ``group_type``; with neither, having models says enough."""
    group = entry.get("group")
    kind = group.get("type") if isinstance(group, Mapping) else None
    if kind is None:
        kind = entry.get("group_type")
    return kind is None or kind == MODEL_GROUP


def _limits(entry: Mapping[str, Any]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for limit in _items(entry, "limits"):
        if not isinstance(limit, Mapping):
            continue
        name, value = limit.get("type"), _amount(limit.get("value"))
        if isinstance(name, str) and name in LIMITERS and value is not None:
            kind = LIMITERS[name]
            limits[kind] = min(value, limits.get(kind, MOST))  # both hold: the lower does
    return limits


def _amount(value: Any) -> Optional[float]:
    """Zero is none: to pace a model that may not be used makes no sense, let the API refuse it."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= MOST else None


def _items(container: Any, name: str) -> Iterator[Any]:
    """The list called *name*, if there is one."""
    found = container.get(name) if isinstance(container, Mapping) else None
    return iter(found if isinstance(found, list) else ())


#: Pages of an answer; more are no answer but a loop.
MOST_PAGES = 100


class PageResponse(Protocol):
    """What an asked server says."""

    status_code: int
    content: bytes


Ask = Callable[[str, str, Mapping[str, str]], Any]


def fetch_pages(ask: Ask, admin_key: str, api_version: str) -> list[Any]:
    """All pages, decoded. *ask* sends a method, a path and headers; it may raise.

    Raises OSError for a refusal. A page that is no object ends it.
    """
    headers = {"x-api-key": admin_key, "anthropic-version": api_version}
    pages: list[Any] = []
    path = "/v1/organizations/rate_limits"
    while len(pages) < MOST_PAGES:
        answer: PageResponse = ask("GET", path, headers)
        if answer.status_code != 200:
            raise OSError(f"status {answer.status_code}")
        page = read_json(answer.content)
        pages.append(page)
        cursor = page.get("next_page") if isinstance(page, dict) else None
        if not isinstance(cursor, str) or not cursor:
            break
        path = f"/v1/organizations/rate_limits?page={quote(cursor, safe='')}"
    return pages


class OrganizationLimits:
    """Reads the organization's limits once, during the first call. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        wire: HttpTransport,
        model_groups: ModelGroups,
        thread_pool: ThreadPool,
    ) -> None:
        self._version = settings.api_version
        self._wire = wire
        self._model_groups = model_groups
        self._thread_pool = thread_pool
        # Popped by the thread that asks.
        self._keys = [settings.admin_key] if settings.admin_key else []

    def ask_once(self) -> None:
        """Ask in a sender thread, unless another thread has asked. Returns at once."""
        if self._keys:
            with contextlib.suppress(IndexError):  # another thread does
                self._thread_pool.run(partial(self._ask, self._keys.pop()))

    def _ask(self, admin_key: str) -> None:
        try:
            pages = fetch_pages(self._wire.ask, admin_key, self._version)
        except Exception as error:  # noqa: BLE001 - only a start; the answers tell, too
            kind = type(error).__name__
            logger.warning("the Rate Limits API did not tell (%s): limits are learned", kind)
        else:
            groups = read_groups(pages)
            self._model_groups.start_with(partial(limits_of, groups=groups))
