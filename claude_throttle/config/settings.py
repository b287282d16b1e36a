"""Every setting, in one frozen place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Union

from claude_throttle.config import environment
from claude_throttle.config import validation as checks
from claude_throttle.core.domain.quota import AUTO, Quota
from claude_throttle.errors import ConfigurationError, UnknownSetting
from claude_throttle.transport.headers import merged_headers

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    from claude_throttle.transport.http import TransportSettings

    Told = Union[float, Quota]

    class SettingsOptions(TypedDict, total=False):
        """Keyword arguments of ``Throttler``; :class:`Settings` explains them."""

        api_key: Optional[str]
        auth_token: Optional[str]
        admin_key: Optional[str]
        base_url: str
        api_version: str
        default_headers: Mapping[str, str]
        rpm: Optional[Told]
        rpd: Optional[Told]
        itpm: Optional[Told]
        otpm: Optional[Told]
        tpm: Optional[Told]
        tpd: Optional[Told]
        burst: Union[int, str, None]
        tier: Union[int, str, None]
        lanes: Mapping[str, str]
        count_tokens: str
        headroom: float
        max_concurrency: Optional[int]
        interactive_share: float
        max_queue: int
        ageing: Optional[float]
        max_retries: int
        retry_share: float
        timeout: Optional[float]
        retry_read_timeouts: bool
        retry_resets: bool
        allow_insecure: bool
        proxies: Optional[Mapping[str, str]]
        ca_bundle: Optional[str]
        shared: Any
        on_store_failure: str
        store_timeout: float
        store_lease: float
        testing: bool


QUOTAS = ("rpm", "rpd", "itpm", "otpm", "tpm", "tpd")

KEYS = ("api_key", "auth_token", "admin_key")

#: Never shown, never pickled: the address of a store may hold a password.
SECRETS = (*KEYS, "shared")

#: What reconfigure() may change; the rest is part of open connections, or of what waits.
CHANGEABLE = {*QUOTAS, "burst", "headroom", "max_concurrency", "max_queue", "timeout"}

FLAGS = ("retry_read_timeouts", "retry_resets", "allow_insecure", "testing")


@dataclass(frozen=True)
class Settings:
    """What a throttler is told. Immutable, so safe to share between threads and processes.

    Raises :class:`ConfigurationError` for values that cannot work.
    """

    #: The key of an account; env ANTHROPIC_API_KEY. Never shown.
    api_key: Optional[str] = field(default=None, repr=False)
    #: A bearer token instead of a key; env ANTHROPIC_AUTH_TOKEN. Never shown.
    auth_token: Optional[str] = field(default=None, repr=False)
    #: An admin key, to read the limits at the start; env ANTHROPIC_ADMIN_KEY. Never shown.
    admin_key: Optional[str] = field(default=None, repr=False)
    #: Where the API is; env ANTHROPIC_BASE_URL.
    base_url: str = "https://api.anthropic.com"
    #: The ``anthropic-version`` header.
    api_version: str = "2023-06-01"
    #: Sent with every request; env ANTHROPIC_CUSTOM_HEADERS (lines "Name: value").
    default_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Requests per minute, for each lane: a number or a Quota. What is not told is learned.
    rpm: Union[float, Quota, None] = None
    #: Requests per day.
    rpd: Union[float, Quota, None] = None
    #: Input tokens per minute; reads from the prompt cache do not count.
    itpm: Union[float, Quota, None] = None
    #: Output tokens per minute.
    otpm: Union[float, Quota, None] = None
    #: Input and output tokens per minute together.
    tpm: Union[float, Quota, None] = None
    #: Input and output tokens per day together.
    tpd: Union[float, Quota, None] = None
    #: Requests that may leave at once after a rest: a number, 1 = strictly spaced, or "auto" =
    #: learned from the answers. None = 1 if a rate is told, else "auto".
    burst: Union[int, str, None] = None
    #: Where to start before the first answer tells: "start", "build", "scale", or the old 1 to 4.
    tier: Union[int, str, None] = None
    #: Which models share limits, where our table is wrong: {"claude-x-*": "x"}, model or pattern
    #: -> lane.
    lanes: Mapping[str, str] = field(default_factory=dict)
    #: How input is counted before it is sent: "estimate" = by the text, corrected by the answers;
    #: "api" = by the free count_tokens endpoint, a round trip before each call queues.
    count_tokens: str = "estimate"
    #: Share of each quota left to others, from 0 to 0.99.
    headroom: float = 0.0
    #: Requests in flight at once, over all models. None = found out if no rate is told, else as
    #: many as the quotas let leave until the API says otherwise.
    max_concurrency: Optional[int] = None
    #: Share of those kept for priority INTERACTIVE, from 0 to 0.9.
    interactive_share: float = 0.0
    #: Calls waiting in each model's queue at once; more raise QueueFull.
    max_queue: int = 100_000
    #: Seconds a priority waits at most while more urgent calls leave, ten at least; then one of its
    #: own goes first. None = for ever.
    ageing: Optional[float] = 30.0
    #: Re-sends of one call after its first attempt.
    max_retries: int = 4
    #: Retries at most, as a share of what is sent, and three a second; more of them wait.
    retry_share: float = 0.2
    #: Seconds for everything: queue, retries, wire. None = as long as it takes.
    timeout: Optional[float] = None
    #: Send a call again whose answer did not come in time; it may be billed twice.
    retry_read_timeouts: bool = False
    #: Send a call again whose connection was lost before any byte of answer.
    retry_resets: bool = True
    #: Allow plain http to other hosts than this one; the key then travels in the clear.
    allow_insecure: bool = False
    #: As in ``requests``: {"https": "http://proxy:3128"}; None = from the environment.
    proxies: Optional[Mapping[str, str]] = field(default=None, repr=False)
    #: Path of a CA bundle; env REQUESTS_CA_BUNDLE. There is no way to switch TLS checks off.
    ca_bundle: Optional[str] = None
    #: Where processes share their quotas: "sqlite:///path" on one machine, "redis://host:6379/0" on
    #: many, or a redis client; max_concurrency is shared, too. None = this process has its own.
    shared: Any = field(default=None, repr=False)
    #: What to do while that cannot be reached: "share" = keep to one part of each quota, by the
    #: number of processes seen last; "stop" = wait; "full" = go on as if alone.
    on_store_failure: str = "share"
    #: Seconds for one exchange with it, connecting included.
    store_timeout: float = 0.25
    #: Seconds after which what a dead process had in flight is free again.
    store_lease: float = 15.0
    #: Make no call, and need no key: every answer is canned. For work on a user interface.
    testing: bool = False

    def __post_init__(self) -> None:
        for name in KEYS:
            self._set(name, checks.clean_secret(name, getattr(self, name)))
        for name in FLAGS:
            checks.require_flag(name, getattr(self, name))
        self._set("base_url", checks.clean_url(self.base_url, self.allow_insecure))
        checks.require_headers("api_version", {"api_version": self.api_version})
        checks.require_headers("default_headers", self.default_headers)
        for name in QUOTAS:
            self._set(name, checks.as_quota(name, getattr(self, name)))
        checks.require_number("headroom", self.headroom, 0.0, 0.99)
        if self.burst is not None and self.burst != AUTO:
            checks.require_whole("burst", self.burst, 1)
        self._set("tier", checks.clean_tier(self.tier))
        checks.require_lanes(self.lanes)
        checks.require_one_of("count_tokens", self.count_tokens, ("estimate", "api"))
        checks.require_number("interactive_share", self.interactive_share, 0.0, 0.9)
        checks.require_number("retry_share", self.retry_share, 0.0, 1.0)
        checks.require_whole("max_queue", self.max_queue, 1)
        checks.require_whole("max_retries", self.max_retries, 0, 100)
        if self.max_concurrency is not None:
            checks.require_whole("max_concurrency", self.max_concurrency, 1)
        for name in ("timeout", "ageing"):
            if getattr(self, name) is not None:
                checks.require_seconds(name, getattr(self, name))
        checks.require_store(self.shared)
        checks.require_one_of("on_store_failure", self.on_store_failure, ("share", "stop", "full"))
        checks.require_seconds("store_timeout", self.store_timeout)
        checks.require_seconds("store_lease", self.store_lease)
        checks.require_proxies(self.proxies)
        checks.require_bundle(self.ca_bundle)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # it is frozen

    def __reduce__(self) -> Any:
        # Secrets stay here; a copy reads them from its own environment.
        options = {name: getattr(self, name) for name in FIELDS if name not in SECRETS}
        return Settings.from_env, (options,)

    @classmethod
    def from_env(
        cls, options: Optional[Mapping[str, Any]] = None, environ: Mapping[str, str] = os.environ
    ) -> Settings:
        """*options*, and the environment for what they leave open.

        ``ANTHROPIC_*`` with the SDK's precedence: a key or token given here keeps both variables
        out; ``CLAUDE_THROTTLE_<SETTING>`` for the rest.
        """
        options = dict(options or {})
        _require_known(options)
        given = {k: v for k, v in options.items() if v is not None or k not in SECRETS}
        return cls(**{**environment.read(environ, given), **given})

    @staticmethod
    def parse_value(name: str, text: str, source: str) -> Any:
        """The value that *text* means for the setting *name*, read as an environment variable is.

        For programs that keep settings as text, in a file of their own or under other names. Raises
        :class:`ConfigurationError`, which names *source*, where the text came from.
        """
        return environment.value_of(name, text, source)

    @classmethod
    def given(cls, settings: Optional[Settings], options: Mapping[str, Any]) -> Settings:
        """*settings* with *options* changed; without settings, what the environment adds."""
        if settings is None:
            return cls.from_env(options)
        if not isinstance(settings, Settings):
            raise ConfigurationError("give settings by name, as in Throttler(api_key=…, rpm=…)")
        return settings.replaced(options) if options else settings

    def replaced(self, options: Mapping[str, Any]) -> Settings:
        """The same with some settings changed."""
        _require_known(options)
        return dataclasses.replace(self, **options)

    def reconfigured(self, options: Mapping[str, Any]) -> Settings:
        """The same, if only what may change while running is to change."""
        changed = self.replaced(options)
        if fixed := sorted(set(options) - CHANGEABLE):
            raise ConfigurationError(f"{', '.join(fixed)} cannot change while running")
        return changed

    @property
    def quotas(self) -> dict[str, Quota]:
        """The quotas in force, headroom taken off."""
        told = {name: getattr(self, name) for name in QUOTAS}
        return {name: quota.with_headroom(self.headroom) for name, quota in told.items() if quota}

    @property
    def burst_in_force(self) -> Union[int, str]:
        """What may leave at once after a rest."""
        if self.burst is not None:
            return self.burst
        return 1 if self.tells_rate else AUTO

    @property
    def tells_rate(self) -> bool:
        """Whether any quota was told."""
        return any(getattr(self, name) is not None for name in QUOTAS)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries: default_headers go before ours, but not before the key."""
        ours = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "anthropic-version": self.api_version,
        }
        proof = {}
        if self.api_key is not None:
            proof["x-api-key"] = self.api_key
        elif self.auth_token is not None:
            proof["Authorization"] = f"Bearer {self.auth_token}"
        return merged_headers(merged_headers(ours, self.default_headers), proof)

    @property
    def wire(self) -> TransportSettings:
        """What the wire needs of all this."""
        # Here, since nothing else in this file needs requests: see Throttler.__init__.
        from claude_throttle.transport.http import TransportSettings
        from claude_throttle.transport.retry import RetryRules

        rules = RetryRules(self.max_retries, self.retry_read_timeouts, self.retry_resets)
        return TransportSettings(self.base_url, self.headers, rules, self.proxies, self.ca_bundle)

    def require_key(self) -> None:
        """Raise :class:`ConfigurationError` if there is nothing to prove who we are."""
        if self.api_key is None and self.auth_token is None:
            raise ConfigurationError(
                "no API key: set ANTHROPIC_API_KEY, or give Throttler(api_key=…) or auth_token=…"
            )


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


def _require_known(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in FIELDS:
            import difflib  # only for a slip

            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise UnknownSetting(f"{name}= is no setting{hint}")
