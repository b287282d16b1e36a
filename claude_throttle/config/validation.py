"""Validation of settings: one function for each kind of value, each raising ConfigurationError.

A function called ``require_…`` only raises; one called ``clean_…`` or ``as_…`` returns the value in
the form in which the rest of the package uses it. The messages are for users: they say what would
be right. They never quote a key or a URL, since a message ends up in logs and bug reports, and a
mistyped URL may begin with a password.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, Protocol, Union
from urllib.parse import urlsplit

from claude_throttle.config.callers import levels_to_caller
from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.core.domain.quota import Quota
from claude_throttle.errors import ConfigurationError
from claude_throttle.transport.headers import header_flaw

#: Seconds of a day, the period of ``rpd`` and ``tpd``; the other quotas are per minute.
_DAILY = 86_400.0

#: The path of an endpoint at the end of a base URL: relays document their URLs with it. A path that
#: goes on after ``/v1`` is a relay's own, such as Cloudflare's ``/v1/ACCOUNT/GATEWAY/anthropic``.
_ENDPOINT = re.compile(r"/v1(/messages(/count_tokens|/batches)?)?$")


def require_seconds(name: str, seconds: Any) -> None:
    """Raise unless *seconds* is a positive number."""
    if not (_is_number(seconds) and seconds > 0):
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds!r}")


def require_timeout(seconds: Any) -> float:
    """Return *seconds* as a float; raise unless it can be the ``timeout=`` of a call."""
    require_seconds("timeout", seconds)
    return float(seconds)


class Unset:
    """The type of :data:`UNSET`, which means "not given"; None means "no limit"."""

    def __repr__(self) -> str:
        return "<from the settings>"


#: The default of ``timeout=`` in every method that takes one: "use the setting".
UNSET = Unset()

if TYPE_CHECKING:
    from claude_throttle.core.domain.not_given import Given

    class ReadTimeout(Protocol):
        """A ``Timeout`` of httpx, of which the longest wait for a byte counts."""

        #: Seconds.
        read: Optional[float]

    #: Seconds, None for no limit, or what stands for the setting.
    Timeout = Given[Union[float, Unset, ReadTimeout, None]]


def seconds_of(timeout: Timeout, default: Optional[float]) -> Optional[float]:
    """The seconds of *timeout*, or *default* if it is unset; None for no limit."""
    if isinstance(timeout, Unset) or is_not_given(timeout):
        return default
    # httpx's: what the SDK's own ``timeout=60`` stands for is the same as Timeout(60).read.
    seconds: Any = getattr(timeout, "read", timeout)
    if hasattr(seconds, "dtype"):  # numpy's
        seconds = seconds.item()
    return None if seconds is None else require_timeout(seconds)


def require_flag(name: str, value: Any) -> None:
    """Raise unless *value* is True or False: the string "false" would count as true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r:.80}")


# bool is a subclass of int, so True would pass as 1; NaN passes every comparison with a limit that
# is written as "raise if smaller".
def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int no float can hold
        return False


def require_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise unless *value* is a finite number from *least* to *most*, both included."""
    if not (_is_number(value) and least <= value <= most):
        raise ConfigurationError(f"{name} must be a number from {least} to {most}, not {value!r}")


def require_whole(name: str, value: Any, least: int, most: Optional[int] = None) -> None:
    """Raise unless *value* is an int of at least *least*, and at most *most* if that is given."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        upper = f" to {most}" if most is not None else ""
        raise ConfigurationError(
            f"{name} must be a whole number from {least}{upper}, not {value!r}"
        )


def clean_tier(tier: Any) -> Optional[str]:
    """The tier's name as the table of tiers has it: "start", or the old numbers 1 to 4 as text."""
    if tier is None:
        return None
    from claude_throttle.core.domain.tiers import tier_name  # only for this setting

    try:
        return tier_name(tier)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def require_one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless *value* is one of *choices*."""
    if value not in choices:
        shown = " or ".join(f'"{choice}"' for choice in choices)
        raise ConfigurationError(f"{name} must be {shown}, not {value!r:.40}")


#: The URL schemes of ``shared=``; ``features/sharing/open_store`` opens the store of each. "memory"
#: shares among the throttlers of one process only.
STORES = ("sqlite", "redis", "rediss", "unix", "redis+sentinel", "memory")


def require_store(shared: Any) -> None:
    """Raise unless *shared* is the URL of a store, or a redis client."""
    if shared is None or hasattr(shared, "execute_command"):
        return
    scheme, found, _ = shared.partition("://") if isinstance(shared, str) else ("", "", "")
    if not found or scheme not in STORES:
        # Not quoted without a proper scheme: it may begin with a password.
        what = scheme if found and scheme.isalnum() else type(shared).__name__
        raise ConfigurationError(
            f"shared must be one of {', '.join(f'{name}://…' for name in STORES)}, or a redis "
            f'client, not {what!r:.40}; on one machine write shared="sqlite:////var/run/claude.db"'
        )
    if scheme == "sqlite" and not shared.startswith("sqlite:///"):
        # Not relative: processes in different directories would share nothing.
        raise ConfigurationError('shared must have an absolute path: "sqlite:///var/run/claude.db"')


def require_lanes(lanes: Any) -> None:
    """Raise unless *lanes* is a mapping from models or patterns to lanes, all non-empty texts."""
    if not isinstance(lanes, Mapping) or not all(
        isinstance(name, str) and name for pair in lanes.items() for name in pair
    ):
        raise ConfigurationError(
            'lanes must map a model, or a pattern like "claude-x-*", to the name of a lane'
        )


# A bare number is per minute or per day, by the setting's name; a Quota brings its own period.
def as_quota(name: str, value: Any) -> Optional[Quota]:
    if value is None:
        return None
    if isinstance(value, Quota):
        return value
    try:
        return Quota(value, per=_DAILY if name in ("rpd", "tpd") else 60.0)
    except (TypeError, ValueError) as error:
        message = str(error).replace("amount", name)
        if isinstance(error, TypeError):
            message += f": {name}=50, or {name}=Quota(50, per=60)"
        raise ConfigurationError(f"{message}; leave it out for no limit") from None


# Keys are pasted: what comes with them from a file or a web page at the ends is cut off, and
# anything like it inside is refused here, where the message is ours.
def clean_secret(name: str, value: Any) -> Optional[str]:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {type(value).__name__}")
    secret: str = value.strip()
    # Never shown: requests prints a key whole if it contains a line break.
    if not secret:
        raise ConfigurationError(f"{name} is empty; leave it out to take the environment's")
    if any(quote in secret for quote in "\"'`"):
        # docker run --env-file passes on the quotes of a line such as KEY="sk-ant-…".
        raise ConfigurationError(
            f"{name} has quotation marks around it or in it: write it without them. A shell takes "
            "them off, an --env-file does not"
        )
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ConfigurationError(
            f"{name} holds a space, a line break or another character that no key has; "
            "paste it again"
        )
    return secret


def clean_url(url: Any, allow_insecure: bool) -> str:
    """The base URL without a slash, or the path of an endpoint, at its end.

    Raises unless it is safe to send a key there: by https, or by http to this machine; anything
    else needs *allow_insecure*. Warns if a path was taken off.
    """
    # Never quoted in a message: URLs may contain passwords and keys.
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise ConfigurationError("base_url must be an https:// URL without spaces in it")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a wrong port
    except ValueError as error:
        raise ConfigurationError(f"base_url is not a URL: {_without_text(error)}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "base_url must begin with https:// and name a host, without quotation marks; for a "
            "server on this machine write http://127.0.0.1:8000"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("base_url must not contain a user, password, query or fragment")
    if parts.scheme == "http" and not allow_insecure and not _is_this_machine(parts.hostname):
        raise ConfigurationError(
            f"base_url is plain http to {parts.hostname}: the key would be sent unencrypted; "
            "use https, or allow_insecure=True if the network is safe"
        )
    bare: str = url.rstrip("/")
    endpoint = _ENDPOINT.search(bare, len(f"{parts.scheme}://{parts.netloc}"))
    if endpoint is None:
        return bare
    warnings.warn(
        f'base_url ends with "{endpoint[0]}", which is added to it for each request: write it '
        "without; it was taken off",
        stacklevel=levels_to_caller(),
    )
    return bare[: endpoint.start()].rstrip("/")


def _is_this_machine(host: str) -> bool:
    """Whether *host* is this machine: nothing that is sent there leaves it."""
    import ipaddress  # few programs use plain http

    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # ::ffff:127.0.0.1 is 127.0.0.1, which not all versions of Python know.
    address = getattr(address, "ipv4_mapped", None) or address
    # 0.0.0.0 is what a server binds to: as a destination, the system takes it for this machine.
    return address.is_loopback or address.is_unspecified


# urlsplit's messages quote what they could not read, which may be a password.
def _without_text(error: ValueError) -> str:
    return "its port is wrong" if "port" in str(error).lower() else "its host is wrong"


def require_headers(name: str, headers: Any) -> None:
    """Raise unless *headers* is a mapping of header fields that can be sent."""
    flaw = header_flaw(headers)
    if flaw is not None:
        raise ConfigurationError(f"{name} {flaw}")


def require_proxies(proxies: Any) -> None:
    """Raise unless *proxies* is None or a mapping of schemes to URLs."""
    if proxies is None:
        return
    if not isinstance(proxies, Mapping) or not all(isinstance(u, str) for u in proxies.values()):
        raise ConfigurationError('proxies must be like {"https": "http://proxy:3128"}')


def require_bundle(path: Any) -> None:
    """Raise unless *path* is None or an existing path."""
    if path is not None and not (isinstance(path, str) and os.path.exists(path)):
        raise ConfigurationError(
            f"ca_bundle must be the path of a file or folder, not {path!r:.200}"
        )
