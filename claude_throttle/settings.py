"""Every setting, in one frozen place."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Union
from urllib.parse import urlsplit

from claude_throttle.errors import ConfigurationError, UnknownSetting
from claude_throttle.pacing.quota import Quota

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    Told = Union[float, Quota]

    class SettingsOptions(TypedDict, total=False):
        """Keyword arguments of ``Throttler``; :class:`Settings` explains them."""

        api_key: Optional[str]
        auth_token: Optional[str]
        base_url: str
        api_version: str
        default_headers: Mapping[str, str]
        rpm: Optional[Told]
        rpd: Optional[Told]
        itpm: Optional[Told]
        otpm: Optional[Told]
        tpm: Optional[Told]
        tpd: Optional[Told]
        burst: int
        headroom: float
        max_concurrency: Optional[int]
        max_queue: int
        max_retries: int
        timeout: Optional[float]
        retry_read_timeouts: bool
        retry_resets: bool
        allow_insecure: bool
        proxies: Optional[Mapping[str, str]]
        ca_bundle: Optional[str]


#: Used while nobody has told a limit: the old tier 1, which every account has (2025-11 table).
DEFAULT_RPM = 50

QUOTAS = ("rpm", "rpd", "itpm", "otpm", "tpm", "tpd")

_DAILY = 86_400.0

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


@dataclass(frozen=True)
class Settings:
    """What a throttler is told. Immutable, so safe to share between threads and processes.

    Raises :class:`ConfigurationError` for values that cannot work.
    """

    #: The key of an account; env ANTHROPIC_API_KEY. Never shown.
    api_key: Optional[str] = field(default=None, repr=False)
    #: A bearer token instead of a key; env ANTHROPIC_AUTH_TOKEN. Never shown.
    auth_token: Optional[str] = field(default=None, repr=False)
    #: Where the API is; env ANTHROPIC_BASE_URL.
    base_url: str = "https://api.anthropic.com"
    #: The ``anthropic-version`` header.
    api_version: str = "2023-06-01"
    #: Sent with every request; env ANTHROPIC_CUSTOM_HEADERS (lines "Name: value").
    default_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Requests per minute, for each model: a number or a Quota. 50 if no limit is told at all.
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
    #: Requests that may leave at once after a rest; 1 = strictly spaced.
    burst: int = 1
    #: Share of each quota left to others, from 0 to 0.99.
    headroom: float = 0.0
    #: Requests in flight at once, over all models; None = as many as the quotas let leave.
    max_concurrency: Optional[int] = None
    #: Calls waiting in each model's queue at once; more raise QueueFull.
    max_queue: int = 100_000
    #: Re-sends of one call after its first attempt.
    max_retries: int = 4
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

    def __post_init__(self) -> None:
        for name in ("api_key", "auth_token"):
            object.__setattr__(self, name, _clean_secret(name, getattr(self, name)))
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        _require_safe_url(self.base_url, self.allow_insecure)
        for name in QUOTAS:
            object.__setattr__(self, name, _as_quota(name, getattr(self, name)))
        _require_number("headroom", self.headroom, 0.0, 0.99)
        _require_whole("burst", self.burst, 1)
        _require_whole("max_queue", self.max_queue, 1)
        _require_whole("max_retries", self.max_retries, 0, 100)
        if self.max_concurrency is not None:
            _require_whole("max_concurrency", self.max_concurrency, 1)
        if self.timeout is not None:
            require_timeout(self.timeout)

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
        return cls(**{**_from_environ(environ, options), **options})

    def replaced(self, options: Mapping[str, Any]) -> Settings:
        """The same with some settings changed."""
        _require_known(options)
        return dataclasses.replace(self, **options)

    @property
    def quotas(self) -> dict[str, Quota]:
        """The quotas in force, headroom taken off."""
        told = {name: getattr(self, name) for name in QUOTAS}
        if not any(told.values()):
            told["rpm"] = Quota(DEFAULT_RPM)
        return {name: quota.with_headroom(self.headroom) for name, quota in told.items() if quota}

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries, the key included."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "anthropic-version": self.api_version,
            **self.default_headers,
        }
        if self.api_key is not None:
            headers["x-api-key"] = self.api_key
        elif self.auth_token is not None:
            headers["Authorization"] = f"Bearer {self.auth_token}"
        return headers

    def require_key(self) -> None:
        """Raise :class:`ConfigurationError` if there is nothing to prove who we are."""
        if self.api_key is None and self.auth_token is None:
            raise ConfigurationError(
                "no API key: set ANTHROPIC_API_KEY, or give Throttler(api_key=…) or auth_token=…"
            )


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


def require_timeout(seconds: Any) -> None:
    """Raise unless *seconds* is a positive number."""
    if _is_number(seconds) and seconds > 0:
        return
    raise ConfigurationError(f"timeout must be a positive number of seconds, not {seconds!r}")


def _require_known(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise UnknownSetting(f"{name}= is no setting{hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require_number(name: str, value: Any, least: float, most: float) -> None:
    if not (_is_number(value) and least <= value <= most):
        raise ConfigurationError(f"{name} must be a number from {least} to {most}, not {value!r}")


def _require_whole(name: str, value: Any, least: int, most: Optional[int] = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        upper = f" to {most}" if most is not None else ""
        raise ConfigurationError(
            f"{name} must be a whole number from {least}{upper}, not {value!r}"
        )


def _as_quota(name: str, value: Any) -> Optional[Quota]:
    if value is None:
        return None
    if isinstance(value, Quota):
        return value
    try:
        return Quota(value, per=_DAILY if name in ("rpd", "tpd") else 60.0)
    except (TypeError, ValueError) as error:
        message = str(error).replace("amount", name)
        raise ConfigurationError(f"{message}; leave it out for no limit") from None


def _clean_secret(name: str, value: Any) -> Optional[str]:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {type(value).__name__}")
    secret: str = value.strip()
    # Never show it: a key with a line break in it is printed whole by requests.
    if not secret:
        raise ConfigurationError(f"{name} is empty")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ConfigurationError(
            f"{name} holds a space, a line break or another character no key has; paste it again"
        )
    return secret


def _require_safe_url(url: str, allow_insecure: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"base_url must be an https:// URL, not {url!r:.100}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("base_url must hold no user, password, query or fragment")
    loopback = _LOOPBACK.fullmatch(parts.hostname)
    if parts.scheme == "http" and not loopback and not allow_insecure:
        raise ConfigurationError(
            f"base_url is plain http to {parts.hostname}: the key would travel in the clear; "
            "use https, or allow_insecure=True if the way is safe"
        )


# -- the environment -------------------------------------------------------------------------------

_NUMBERS = (*QUOTAS, "headroom", "timeout")
_WHOLE = ("burst", "max_concurrency", "max_queue", "max_retries")
_FLAGS = ("retry_read_timeouts", "retry_resets", "allow_insecure")


def _from_environ(environ: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.get("api_key") is None and options.get("auth_token") is None:
        found["api_key"] = environ.get("ANTHROPIC_API_KEY") or None
        if found["api_key"] is None:
            found["auth_token"] = environ.get("ANTHROPIC_AUTH_TOKEN") or None
    if environ.get("ANTHROPIC_BASE_URL"):
        found["base_url"] = environ["ANTHROPIC_BASE_URL"]
    if environ.get("ANTHROPIC_CUSTOM_HEADERS"):
        found["default_headers"] = _header_lines(environ["ANTHROPIC_CUSTOM_HEADERS"])
    bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    if bundle:
        found["ca_bundle"] = bundle
    for name in (*_NUMBERS, *_WHOLE, *_FLAGS, "api_version"):
        text = environ.get(f"CLAUDE_THROTTLE_{name.upper()}")
        if text:
            found[name] = _parse(name, text)
    return found


def _header_lines(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _parse(name: str, text: str) -> Any:
    try:
        if name in _FLAGS:
            return {"1": True, "true": True, "0": False, "false": False}[text.strip().lower()]
        if name in _WHOLE:
            return int(text)
        return float(text) if name in _NUMBERS else text
    except (KeyError, ValueError):
        raise ConfigurationError(
            f"CLAUDE_THROTTLE_{name.upper()}={text!r:.80} is not a value for {name}"
        ) from None
