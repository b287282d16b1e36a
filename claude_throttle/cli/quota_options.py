"""Arguments of the command line that become settings of a Throttler, and their number types.

A function that parses a number is passed as ``type=``: argparse turns its ``ArgumentTypeError``
into a usage error with exit code 2. What is not given stays out of the settings, so environment
variables and the application's own configuration still count.
"""

from __future__ import annotations

import argparse
import math
from typing import Any, Callable, Union

import claude_throttle
from claude_throttle.cli import CannotStart

Number = Union[int, float]


def amount(text: str) -> Number:
    """A number above 0; underscores are allowed (``30_000``)."""
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
    """A part of a whole: from 0 to less than 1."""
    number = _number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to less than 1, not {text!r}")
    return number


def whole(least: int) -> Callable[[str], int]:
    """The type of whole numbers from *least* on."""

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
    """A finite number, as int where it is whole, so that it is shown as the user typed it."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    return int(number) if number.is_integer() else number


#: Name of the setting: (type of its argument, its meaning).
QUOTAS: dict[str, tuple[Callable[[str], Any], str]] = {
    "rpm": (amount, "requests a minute"),
    "itpm": (amount, "input tokens a minute"),
    "otpm": (amount, "output tokens a minute"),
    "tpm": (amount, "input and output tokens together, a minute"),
    "rpd": (amount, "requests a day"),
    "tpd": (amount, "tokens a day"),
    "tier": (
        str,
        "limits until the first answer: start, build, scale, or the old 1 to 4",
    ),
}
#: Settings that are no quotas, in the same form.
HANDLING: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_concurrency": (whole(1), "most calls in flight at once"),
    "burst": (
        burst,
        "requests that may be sent at once after a pause; auto learns it "
        "(default: auto; 1 if a quota is given)",
    ),
    "headroom": (share, "share of every quota to leave unused, such as 0.05"),
    "max_retries": (whole(0), "how often a refused call is sent again"),
    "timeout": (amount, "seconds for each call: queue, retries and wire together"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all quotas, and those of handling calls."""
    for title, what, table in (
        (
            "quotas of your key",
            "learned from the answers; one that is given here is never exceeded",
            QUOTAS,
        ),
        ("handling of calls", None, HANDLING),
    ):
        group = parser.add_argument_group(title, what)
        for name, (kind, meaning) in table.items():
            shown = "NAME" if kind is str else "N"
            group.add_argument(flag(name), type=kind, metavar=shown, help=meaning)


def flag(name: str) -> str:
    """The option of the setting *name*: ``--max-retries`` for ``max_retries``."""
    return "--" + name.replace("_", "-")


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of those *names* (by default: all settings) that were given.

    An option that was left out is None in *arguments*, and must not hide the environment.
    """
    values = {name: getattr(arguments, name) for name in names or (*QUOTAS, *HANDLING)}
    return {name: value for name, value in values.items() if value is not None}


def application_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings from the application whose command line this is; otherwise none.

    :class:`claude_throttle.cli.application.ApplicationCommands` leaves them in *arguments*.
    """
    return dict(getattr(arguments, "application_settings", ()))


def open_throttler(**settings: Any) -> claude_throttle.Throttler:
    """Make a Throttler; raise :class:`CannotStart` with the reason if that is impossible.

    It refuses the testing mode, in which answers are canned, however that was switched on.
    """
    try:
        throttler = claude_throttle.Throttler(**settings)
    except claude_throttle.ConfigurationError as error:
        raise CannotStart(str(error)) from None
    if throttler.settings.testing:
        # A file of canned answers would look like one of real answers.
        raise CannotStart(
            "CLAUDE_THROTTLE_TESTING is set, so no call would be made; unset it, or add --fake"
        )
    return throttler


def require_key(throttler: claude_throttle.Throttler) -> None:
    """Raise :class:`CannotStart` without a key, with a message for a user of the command line."""
    try:
        throttler.settings.require_key()
    except claude_throttle.ConfigurationError:
        platform = throttler.settings.platform
        raise CannotStart(
            f"CLAUDE_THROTTLE_PLATFORM={platform}: this command speaks to the Claude API; unset "
            "it, or set ANTHROPIC_BASE_URL to an address that takes its requests"
            if throttler.settings.calls_elsewhere
            else "no API key: set ANTHROPIC_API_KEY; or try it without one: add --fake"
        ) from None
