"""``GET /v1/organizations/rate_limits``: which models share which limits. Pure functions.

The format is that of the SDK 2.11.0, types/organization/organization_rate_limit.py. The throttler
asks this endpoint, if it has a key of the Admin API, to learn which models draw from one bucket;
the fake server answers from its own configuration, so that both must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional
from urllib.parse import parse_qs

from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.testing import replies
from claude_throttle.testing.faults import Reply

PATH = "/v1/organizations/rate_limits"

#: The models of the SDK 2.11.0 (2026-11-19), types/model.py: those that are listed before any call.
KNOWN_MODELS = (
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-fable-5-1",
    "claude-opus-5-5",
    "claude-mythos-5-1",
    "claude-sonnet-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5",
    "claude-sonnet-4-5-20250929",
)

#: Entries on one page, at most. Without ``limit`` all entries are returned at once.
LARGEST_PAGE = 1000
_CURSOR = "page_"

Entry = dict[str, Any]


def entries(limits: SimulatedLimits, shared: Mapping[str, str], seen: Iterable[str]) -> list[Entry]:
    """All entries; *seen* are buckets that were used. Those without a limit are left out.

    A model that shares no bucket gets a group of its own. Requests to ``count_tokens`` have an
    entry without models: that quota is one for the whole organization.
    """
    groups: dict[str, list[str]] = {}
    for model in dict.fromkeys((*KNOWN_MODELS, *shared)):
        groups.setdefault(shared.get(model, model), []).append(model)
    for name in seen:
        groups.setdefault(name, [name])
    per_model = _values(
        requests_per_minute=limits.rpm,
        input_tokens_per_minute_cache_aware=limits.itpm,
        output_tokens_per_minute=limits.otpm,
    )
    found = [_entry("model_group", name, per_model, models) for name, models in groups.items()]
    found.append(_entry("token_count", "", _values(requests_per_minute=limits.count_rpm), None))
    return [entry for entry in found if entry["limits"]]


def answer(found: list[Entry], query: str) -> Reply:
    """The page of *found* that *query* asks for.

    404 for a model without an entry; 400 for a wrong ``limit`` or cursor.
    """
    asked = {name: texts[-1] for name, texts in parse_qs(query).items()}
    if "group_type" in asked:
        found = [entry for entry in found if entry["group"]["type"] == asked["group_type"]]
    if "model" in asked:
        found = [entry for entry in found if asked["model"] in (entry["models"] or ())]
        if not found:
            return Reply(404, message=f"model: {asked['model']} has no rate limits")
    start = _whole(asked.get("page", _CURSOR + "0").partition(_CURSOR)[2], 0, len(found))
    size = _whole(asked.get("limit", str(LARGEST_PAGE)), 1, LARGEST_PAGE)
    if start is None or size is None:
        return Reply(400, {"x-should-retry": "false"}, message="limit or page: Input is not valid")
    end = start + size if "limit" in asked else len(found)
    more = f"{_CURSOR}{end}" if end < len(found) else None
    return Reply(200, body=replies.to_json({"data": found[start:end], "next_page": more}))


def _entry(kind: str, name: str, limits: list[Entry], models: Optional[list[str]]) -> Entry:
    group: Entry = {"id": f"rlg_{name or kind}", "type": kind}
    if models is not None:
        group["display_name"] = name
    found: Entry = {"id": f"rl_{name or kind}", "type": "rate_limit", "group": group}
    return {**found, "models": models, "limits": limits}


def _values(**limits: float | None) -> list[Entry]:
    return [
        {"type": kind, "value": int(value)} for kind, value in limits.items() if value is not None
    ]


def _whole(text: str, least: int, most: int) -> int | None:
    # Bounded: Python raises for numbers with thousands of digits.
    if not text.isdecimal() or len(text) > 9:
        return None
    return int(text) if least <= int(text) <= most else None
