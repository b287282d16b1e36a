"""All settings of a throttler, with their defaults and their validation, in one frozen dataclass.

``Throttler(**options)`` takes them by name; the command line, Django and Flask pass theirs through
:class:`Settings`, too, so every way in accepts the same values and raises the same errors. The
comment above each field is its documentation: ``python -m tests.test_readme`` makes the table in
``examples/guides/settings.md`` of them.

This module must stay cheap to import, so it loads ``requests`` only when a transport is made.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
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

    Amount = Union[float, Quota]

    class SettingsOptions(TypedDict, total=False):
        """Keyword arguments of ``Throttler``; :class:`Settings` explains them."""

        api_key: Optional[str]
        auth_token: Optional[str]
        admin_key: Optional[str]
        base_url: str
        platform: str
        api_version: str
        default_headers: Mapping[str, str]
        rpm: Optional[Amount]
        rpd: Optional[Amount]
        itpm: Optional[Amount]
        otpm: Optional[Amount]
        tpm: Optional[Amount]
        tpd: Optional[Amount]
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
        max_connections: Optional[int]


#: The URL of the Claude API.
CLAUDE_API = "https://api.anthropic.com"

#: Where Claude runs. The clouds tell no limits in headers, and have quotas of their own.
PLATFORMS = ("anthropic", "bedrock", "vertex", "foundry")

#: Settings that are quotas: requests, input tokens, output tokens and all tokens (r, it, ot, t),
#: per minute (pm) or per day (pd).
QUOTAS = ("rpm", "rpd", "itpm", "otpm", "tpm", "tpd")

#: Credentials. ``admin_key`` reads the account's limits only; it is never sent with a message.
KEYS = ("api_key", "auth_token", "admin_key")

#: Never shown, never pickled: a store's address may contain a password.
SECRETS = (*KEYS, "shared")

#: Settings that reconfigure() may change while calls run. All others are part of open connections
#: or of calls that wait.
CHANGEABLE = {*QUOTAS, "burst", "headroom", "max_concurrency", "max_queue", "timeout"}

#: Settings that are True or False, and nothing that merely counts as such.
FLAGS = ("retry_read_timeouts", "retry_resets", "allow_insecure", "testing")


@dataclass(frozen=True)
class Settings:
    """The settings of a throttler. Immutable: safe to share between threads and processes.

    Pickles without its secrets, which the copy reads from its own environment. Raises
    :class:`ConfigurationError` for wrong values::

        settings = Settings(api_key="…", rpm=50, timeout=30)
        throttler = Throttler(settings, max_queue=1_000)
    """

    #: The API key; env ANTHROPIC_API_KEY. Never shown.
    api_key: Optional[str] = field(default=None, repr=False)
    #: A bearer token instead of a key; env ANTHROPIC_AUTH_TOKEN. Never shown.
    auth_token: Optional[str] = field(default=None, repr=False)
    #: An admin key, to read the limits at the start; env ANTHROPIC_ADMIN_KEY. Never shown.
    admin_key: Optional[str] = field(default=None, repr=False)
    #: The URL of the API, without ``/v1``; env ANTHROPIC_BASE_URL.
    base_url: str = CLAUDE_API
    #: Whose quotas they are: "anthropic", or "bedrock", "vertex", "foundry", whose requests the
    #: SDK's clients send. Bedrock: max_tokens and cache reads are booked until the answer is there.
    platform: str = "anthropic"
    #: The ``anthropic-version`` header.
    api_version: str = "2023-06-01"
    #: Sent with every request; env ANTHROPIC_CUSTOM_HEADERS (lines "Name: value").
    default_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Requests per minute, for each lane: a number or a Quota. A quota that is left out is learned.
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
    #: Requests that may be sent at once after a pause: a number, 1 = strictly spaced, or "auto" =
    #: learned from the answers. None = 1 if a quota is configured, else "auto".
    burst: Union[int, str, None] = None
    #: The limits until the first answer: those of "start", "build", "scale", or the old 1 to 4.
    tier: Union[int, str, None] = None
    #: Corrects which models share limits: {"claude-x-*": "x"}, from a model or pattern to the name
    #: of its lane.
    lanes: Mapping[str, str] = field(default_factory=dict)
    #: How input tokens are counted before a call: "estimate" = from the text, corrected by the
    #: answers; "api" = by the free count_tokens endpoint, one round trip before each call queues.
    count_tokens: str = "estimate"
    #: Share of each quota to leave unused, from 0 to 0.99.
    headroom: float = 0.0
    #: Requests in flight at once, over all models. None = learned if no quota is configured, else
    #: as many as the quotas allow until the API refuses more.
    max_concurrency: Optional[int] = None
    #: Share of max_concurrency that is reserved for priority INTERACTIVE, from 0 to 0.9.
    interactive_share: float = 0.0
    #: Calls that may wait in each lane's queue; one more raises QueueFull.
    max_queue: int = 100_000
    #: Seconds, at least 10, that a priority waits at most while more urgent calls are sent; then
    #: one of its calls is sent first. None = no limit.
    ageing: Optional[float] = 30.0
    #: Retries of one call after its first attempt.
    max_retries: int = 4
    #: Retries as a share of all requests, beside three a second that are always allowed.
    retry_share: float = 0.2
    #: Seconds for a whole call: queue, retries and network. None = no limit.
    timeout: Optional[float] = None
    #: Retry a call whose answer did not come in time; it may be billed twice.
    retry_read_timeouts: bool = False
    #: Retry a call whose connection was lost before the first byte of its answer.
    retry_resets: bool = True
    #: Allow plain http to other hosts than this one; the key is then sent unencrypted.
    allow_insecure: bool = False
    #: As in ``requests``: {"https": "http://proxy:3128"}; None = from the environment.
    proxies: Optional[Mapping[str, str]] = field(default=None, repr=False)
    #: Path of a CA bundle; env REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or SSL_CERT_DIR.
    #: TLS verification cannot be switched off.
    ca_bundle: Optional[str] = None
    #: The store in which processes share their quotas and max_concurrency: "sqlite:///path" on one
    #: machine, "redis://host:6379/0" on several, or a redis client. None = not shared.
    shared: Any = field(default=None, repr=False)
    #: While the store cannot be reached: "share" = use an equal share of each quota, by the number
    #: of processes seen last; "stop" = send nothing; "full" = use the whole quota.
    on_store_failure: str = "share"
    #: Seconds for one exchange with the store, connecting included.
    store_timeout: float = 0.25
    #: Seconds after which the concurrency that a dead process held is free again.
    store_lease: float = 15.0
    #: Make no calls and need no key: every answer is canned. For work on a user interface.
    testing: bool = False
    #: Connections in use at once: never more requests are in flight, whatever max_concurrency says.
    #: None = half of the files this process may open (``ulimit -n``), no limit on Windows.
    max_connections: Optional[int] = None

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
        checks.require_one_of("platform", self.platform, PLATFORMS)
        if self.tier is not None and self.is_cloud:
            raise ConfigurationError(
                f'tier is of the Claude API, not of platform="{self.platform}": tell the quotas '
                "there instead, as rpm=, tpm=, itpm= or otpm="
            )
        checks.require_lanes(self.lanes)
        checks.require_one_of("count_tokens", self.count_tokens, ("estimate", "api"))
        checks.require_number("interactive_share", self.interactive_share, 0.0, 0.9)
        checks.require_number("retry_share", self.retry_share, 0.0, 1.0)
        checks.require_whole("max_queue", self.max_queue, 1)
        checks.require_whole("max_retries", self.max_retries, 0, 100)
        for name in ("max_concurrency", "max_connections"):
            if getattr(self, name) is not None:
                checks.require_whole(name, getattr(self, name), 1)
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
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def __reduce__(self) -> Any:
        # Secrets are left out, since a pickle may end in a queue's database or in a log; the copy
        # reads them from its own environment.
        options = {name: getattr(self, name) for name in FIELDS if name not in SECRETS}
        return Settings.from_env, (options,)

    @classmethod
    def from_env(
        cls, options: Optional[Mapping[str, Any]] = None, environ: Mapping[str, str] = os.environ
    ) -> Settings:
        """Settings from *options*, completed from environment variables.

        ``ANTHROPIC_*`` is read with the SDK's precedence: if *options* has a key or a token,
        neither variable is read. The other settings are ``CLAUDE_THROTTLE_<SETTING>``. Raises
        :class:`ConfigurationError`.
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

    @staticmethod
    def meant_by(name: str, names: Collection[str] = ()) -> str:
        """What the unknown setting *name* was meant to be: one of *names*, or of all settings.

        Or a sentence that says what to write; "" if neither is known.
        """
        from claude_throttle.config import setting_names  # only needed for an error

        return setting_names.meant_by(name, names or NAMES)

    @classmethod
    def given(cls, settings: Any, options: Mapping[str, Any]) -> Settings:
        """The settings of a new throttler: *settings* (or the environment's), *options* changed.

        Raises :class:`ConfigurationError`, also if *settings* is not a Settings object.
        """
        if settings is None:
            return cls.from_env(options)
        if not isinstance(settings, Settings):
            from claude_throttle.config.wrong_use import settings_by_name  # only for this error

            raise ConfigurationError(
                "give settings by name, as in Throttler(api_key=…, rpm=…), not "
                f"{type(settings).__name__:.80} alone: {settings_by_name(settings)}"
            )
        return settings.replaced(options) if options else settings

    def replaced(self, options: Mapping[str, Any]) -> Settings:
        """A copy with *options* changed, and checked. Raises :class:`ConfigurationError`."""
        _require_known(options)
        return dataclasses.replace(self, **options)

    def reconfigured(self, options: Mapping[str, Any]) -> Settings:
        """A copy with *options* changed, for a throttler that is running.

        Raises :class:`ConfigurationError` for settings that are not in :data:`CHANGEABLE`.
        """
        changed = self.replaced(options)
        if fixed := sorted(set(options) - CHANGEABLE):
            raise ConfigurationError(f"{', '.join(fixed)} cannot change while running")
        return changed

    @property
    def quotas(self) -> dict[str, Quota]:
        """The configured quotas by their names, each reduced by the headroom."""
        given = {name: getattr(self, name) for name in QUOTAS}
        return {name: quota.with_headroom(self.headroom) for name, quota in given.items() if quota}

    @property
    def burst_in_force(self) -> Union[int, str]:
        """The burst that applies: ``burst``, or its default."""
        if self.burst is not None:
            return self.burst
        return 1 if self.tells_rate else AUTO

    @property
    def tells_rate(self) -> bool:
        """Whether any quota is configured; without one, all limits are learned from answers."""
        return any(getattr(self, name) is not None for name in QUOTAS)

    @property
    def headers(self) -> dict[str, str]:
        """Header fields of every request, the key included: never to be logged.

        ``default_headers`` replace fields of ours, but not the credentials.
        """
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
        """The part of the settings that the HTTP transport needs; it holds the key."""
        # Imported here: it brings requests, which is slow, and Settings must be cheap to import.
        from claude_throttle.transport.http import TransportSettings
        from claude_throttle.transport.retry import RetryRules

        rules = RetryRules(self.max_retries, self.retry_read_timeouts, self.retry_resets)
        return TransportSettings(self.base_url, self.headers, rules, self.proxies, self.ca_bundle)

    @property
    def is_cloud(self) -> bool:
        """Whether the quotas are those of a cloud's platform, not of the Claude API."""
        return self.platform != "anthropic"

    @property
    def calls_elsewhere(self) -> bool:
        """Whether only clients of a cloud's platform send: nothing tells where calls would go."""
        return self.is_cloud and self.base_url == CLAUDE_API

    @property
    def has_key(self) -> bool:
        """Whether calls can be sent: there is a key or a token, and an address for it."""
        has_any = self.api_key is not None or self.auth_token is not None
        return has_any and not self.calls_elsewhere

    def require_key(self) -> None:
        """Raise :class:`ConfigurationError` if no call can be sent: no key, or another platform."""
        if self.calls_elsewhere:
            raise ConfigurationError(
                f'platform="{self.platform}": call(), submit() and stream() would send to the '
                "Claude API; use the SDK's client of that platform with "
                "middleware=[throttler.middleware()], or set base_url"
            )
        if not self.has_key:
            raise ConfigurationError(
                "no API key: set ANTHROPIC_API_KEY, or give Throttler(api_key=…) or auth_token=…"
            )


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))

#: What ``Throttler`` takes by name.
NAMES = (*FIELDS, "on_event", "clock")


def _require_known(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in FIELDS:
            from claude_throttle.config.setting_names import hint  # only needed for this error

            raise UnknownSetting(f"{name!s:.80}= is not a setting{hint(str(name), NAMES)}")
