"""How the fake server is told to behave."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from claude_throttle.core.threads.clock import Clock
from claude_throttle.simulation.quotas import ADMISSION, ANSWER, SimulatedLimits

Latency = Union[float, Callable[[random.Random, dict[str, Any]], float]]
OutputTokens = Union[int, Callable[[random.Random, dict[str, Any]], int]]

#: How keys of the Admin API begin.
ADMIN_PREFIX = "sk-ant-admin"


@dataclass(frozen=True)
class Behaviour:
    """How the server answers; see :class:`claude_throttle.testing.FakeClaude`."""

    limits: SimulatedLimits
    clock: Clock
    organization_id: str
    #: Seconds, or a function of a random source and the request's body that tells them.
    latency: Latency = 0.0
    output_tokens: OutputTokens = 20
    characters_per_token: float = 4.0
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    spend_cap_after: Optional[int] = None
    #: Seconds.
    overload_retry_after: Optional[int] = None
    seed: object = 0
    api_keys: Optional[Collection[str]] = None
    #: ``None``: all that begin as such keys do.
    admin_keys: Optional[Collection[str]] = None
    log_limit: Optional[int] = None
    headers_at: str = ADMISSION
    #: Model: name of the bucket it shares with others.
    shared_models: Mapping[str, str] = field(default_factory=dict)
    #: Seconds.
    concurrency_retry_after: Optional[int] = None
    #: Whether that refusal has ``x-should-retry: true``.
    concurrency_should_retry: bool = True

    def __post_init__(self) -> None:
        if self.headers_at not in (ADMISSION, ANSWER):
            raise ValueError(
                f"headers_at must be {ADMISSION!r} or {ANSWER!r} (got {self.headers_at!r})"
            )

    def bucket_of(self, model: str) -> str:
        """The name of the bucket that *model* spends from."""
        return self.shared_models.get(model, model)

    def lets_in(self, key: str) -> bool:
        """Whether *key* may send messages."""
        return self.api_keys is None or key in self.api_keys

    def administers(self, key: str) -> bool:
        """Whether *key* may ask about the organization."""
        if self.admin_keys is None:
            return key.startswith(ADMIN_PREFIX)
        return key in self.admin_keys
