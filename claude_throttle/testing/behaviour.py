"""The configuration of the fake server, in one immutable value.

:class:`FakeClaude` collects its many keyword arguments here, so that the modules behind it take one
argument. What can change while the server runs (limits, faults, the script) is copied from here at
the start and kept, under its lock, by :class:`claude_throttle.testing.service.Service`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from claude_throttle.core.domain.models import FAST
from claude_throttle.core.threads.clock import Clock
from claude_throttle.simulation.quotas import ADMISSION, ANSWER, Refusal, SimulatedLimits
from claude_throttle.testing.replies import LIMIT_NAMES

Latency = Union[float, Callable[[random.Random, dict[str, Any]], float]]
OutputTokens = Union[int, Callable[[random.Random, dict[str, Any]], int]]

#: Names that limit headers may have.
SPELLINGS = ("anthropic", "x-ratelimit", "llm_provider", "none")

#: The prefix of keys of the Admin API.
ADMIN_PREFIX = "sk-ant-admin"


@dataclass(frozen=True)
class Behaviour:
    """The configuration of a :class:`FakeClaude`, which explains each field.

    Immutable, so all threads may read it without a lock. Raises ValueError for an unknown
    ``headers_at``: a typing error there would silently test the other case.
    """

    limits: SimulatedLimits
    clock: Clock
    organization_id: str
    #: Seconds, or a function of a random source and the request's body that returns them.
    latency: Latency = 0.0
    output_tokens: OutputTokens = 20
    characters_per_token: float = 4.0
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    spend_cap_after: Optional[int] = None
    #: Seconds.
    overload_retry_after: Optional[int] = None
    seed: object = 0
    api_keys: Optional[Collection[str]] = None
    #: ``None``: all keys with the prefix.
    admin_keys: Optional[Collection[str]] = None
    log_limit: Optional[int] = None
    headers_at: str = ADMISSION
    limit_headers: str = "anthropic"
    hidden_limits: Collection[str] = ()
    #: Model: name of the bucket that it shares with others.
    shared_models: Mapping[str, str] = field(default_factory=dict)
    #: Seconds.
    concurrency_retry_after: Optional[int] = None
    #: The limits of fast mode, by the names of :class:`SimulatedLimits`; ``None``: those of the
    #: model. A limit of 0 refuses each request.
    fast: Optional[Mapping[str, float]] = None
    #: Whether a refusal for too many requests in flight has ``x-should-retry: true``.
    concurrency_should_retry: bool = True

    def __post_init__(self) -> None:
        if self.headers_at not in (ADMISSION, ANSWER):
            raise ValueError(
                f"headers_at must be {ADMISSION!r} or {ANSWER!r} (got {self.headers_at!r})"
            )

        if self.limit_headers not in SPELLINGS:
            raise ValueError(f"limit_headers must be one of {', '.join(SPELLINGS)}")

    def bucket_of(self, model: str) -> str:
        """The name of the bucket that *model*, or a model's fast mode, spends from."""
        plain = model[: -len(FAST)] if model.endswith(FAST) else model
        bucket = self.shared_models.get(plain, plain)
        return bucket if plain == model or self.fast is None else bucket + FAST

    def limits_of(self, bucket: str, limits: SimulatedLimits) -> SimulatedLimits:
        """What *bucket* allows, where *limits* are those of models."""
        if self.fast is None or not bucket.endswith(FAST):
            return limits
        return SimulatedLimits(**{name: amount or None for name, amount in self.fast.items()})  # type: ignore[arg-type]

    def refuses_fast(self) -> Optional[Refusal]:
        """The refusal where a limit of fast mode is 0; None where there is none."""
        for name, kind in LIMIT_NAMES.items():
            if self.fast is not None and self.fast.get(name) == 0:
                return Refusal(kind.replace("-", " "), 0.0, 60)
        return None

    def is_valid_key(self, key: str) -> bool:
        """Whether *key* may send messages."""
        return self.api_keys is None or key in self.api_keys

    def is_admin_key(self, key: str) -> bool:
        """Whether *key* may ask about the organization.

        An ordinary key may not, as at the API: there the endpoint takes only keys of the Admin API.
        """
        if self.admin_keys is None:
            return key.startswith(ADMIN_PREFIX)
        return key in self.admin_keys
