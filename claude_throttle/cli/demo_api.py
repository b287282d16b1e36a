"""The fake API that ``--fake`` starts: limits like a real account's, no key, no network."""

from __future__ import annotations

from typing import Any

from claude_throttle.testing import FakeClaude

#: Requests, input tokens and output tokens a minute: tier Start, most models (rate-limit page,
#: 2026-09).
TIER_START = {"rpm": 1_000, "itpm": 2_000_000, "otpm": 400_000}

#: Arrivals kept: nobody here asks for the log.
LOG_LIMIT = 1

#: From a batch's creation to its end: not as long as in life.
BATCH_SECONDS = 2.0

KEY = "fake-key"


def demo_api(latency: float, **limits: Any) -> FakeClaude:
    """One with the limits of tier Start, where *limits* say nothing else; to be started."""
    fake = FakeClaude(latency=latency, log_limit=LOG_LIMIT, **{**TIER_START, **limits})
    fake.batches.seconds = BATCH_SECONDS
    return fake


def settings_for(fake: FakeClaude) -> dict[str, Any]:
    """How a throttler reaches it, whatever the environment says of keys, proxies and testing."""
    return {"base_url": fake.url, "api_key": KEY, "proxies": {}, "testing": False}
