"""Arguments that become settings of a Throttler, and numbers checked in the user's words."""

from __future__ import annotations

import argparse
import math
from typing import Any, Callable, Union

import claude_throttle
from claude_throttle.cli.exits import CannotStart

Number = Union[int, float]


def amount(text: str) -> Number:
    """A number above 0; underscores are fine (``30_000``)."""
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text!r}")
    return number


def seconds(text: str) -> Number:
    """A duration of 0 or more."""
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text!r}")
    return number


def share(text: str) -> Number:
    """A part of a whole that leaves something."""
    number = _number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to less than 1, not {text!r}")
    return number


def whole(least: int) -> Callable[[str], int]:
    """A whole number from *least* on."""

    def parse(text: str) -> int:
        number = _number(text)
        if number != int(number) or number < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} on, not {text!r}"
            )
        return int(number)

    return parse


def burst(text: str) -> Union[int, str]:
    """``auto``, or a whole number from 1 on."""
    return text if text == "auto" else whole(1)(text)


def _number(text: str) -> Number:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    return int(number) if number.is_integer() else number


#: Name of the setting: (reader of its argument, what it means).
QUOTAS: dict[str, tuple[Callable[[str], Any], str]] = {
    "rpm": (amount, "requests a minute"),
    "itpm": (amount, "input tokens a minute"),
    "otpm": (amount, "output tokens a minute"),
    "tpm": (amount, "input and output tokens together, a minute"),
    "rpd": (amount, "requests a day"),
    "tpd": (amount, "tokens a day"),
    "tier": (str, "where to start until the first answer: start, build, scale, or the old 1 to 4"),
}
HANDLING: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_concurrency": (whole(1), "most calls in flight at once"),
    "burst": (
        burst,
        "requests that may leave at once after a rest; auto learns it "
        "(default: auto; 1 if a quota is told)",
    ),
    "headroom": (share, "share of every quota to leave unused, such as 0.05"),
    "max_retries": (whole(0), "how often a refused call is sent again"),
    "timeout": (amount, "seconds for each call: queue, retries and wire together"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every quota and handling argument."""
    for title, what, table in (
        ("quotas of your key", "learned from the answers; what is told is never exceeded", QUOTAS),
        ("handling of calls", None, HANDLING),
    ):
        group = parser.add_argument_group(title, what)
        for name, (kind, meaning) in table.items():
            shown = "NAME" if kind is str else "N"
            group.add_argument(flag(name), type=kind, metavar=shown, help=meaning)


def flag(name: str) -> str:
    """``max_retries`` as it is typed: ``--max-retries``."""
    return "--" + name.replace("_", "-")


def told(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of *names* (by default: every setting) that were given a value."""
    values = {name: getattr(arguments, name) for name in names or (*QUOTAS, *HANDLING)}
    return {name: value for name, value in values.items() if value is not None}


def of_the_application(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an application's own settings tell, where one lends its command line; else nothing."""
    return dict(getattr(arguments, "application_settings", ()))


def open_throttler(**settings: Any) -> claude_throttle.Throttler:
    """A Throttler, or the reason why there cannot be one."""
    try:
        throttler = claude_throttle.Throttler(**settings)
    except claude_throttle.ConfigurationError as error:
        raise CannotStart(str(error)) from None
    if throttler.settings.testing:
        # A file of canned answers looks like one of real ones.
        raise CannotStart(
            "CLAUDE_THROTTLE_TESTING is set, so no call would be made; unset it, or add --fake"
        )
    return throttler


def require_key(throttler: claude_throttle.Throttler) -> None:
    """The library's own words speak to programs; these to somebody at a prompt."""
    try:
        throttler.settings.require_key()
    except claude_throttle.ConfigurationError:
        raise CannotStart(
            "no API key: set ANTHROPIC_API_KEY; or try it without one: add --fake"
        ) from None
