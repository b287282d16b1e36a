"""Serve a fake Claude API on loopback that enforces quotas, until Ctrl-C.

The first line on stdout is its URL. Any key is accepted.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from claude_throttle.cli import ALL_WELL, CannotStart, quota_options
from claude_throttle.testing import FakeClaude

SUMMARY = "serve a fake Claude API that enforces quotas"

#: Arrivals that the command keeps: it may serve for days, and each keeps its headers.
LOG_LIMIT = 1000

#: Requests, input tokens and output tokens a minute: tier Start, most models (rate-limit page,
#: 2026-09).
TIER_START = {"rpm": 1_000, "itpm": 2_000_000, "otpm": 400_000}

#: Arrivals that ``--fake`` keeps: its log is not read.
FAKE_LOG_LIMIT = 1

#: Seconds from a batch's creation to its end; at the real API it takes up to a day.
BATCH_SECONDS = 2.0

#: Any key is accepted; the throttler only refuses to work without one.
KEY = "fake-key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve-fake``."""
    amount, whole = quota_options.amount, quota_options.whole
    for name, kind, meaning in (
        ("rpm", amount, "requests a minute and model (default: no limit)"),
        ("itpm", amount, "input tokens a minute and model"),
        ("otpm", amount, "output tokens a minute and model"),
        ("burst", amount, "requests that are admitted at once (default: those of a minute)"),
        ("promised_burst", amount, "burst that the headers report, whatever is enforced"),
        ("others_rpm", amount, "requests a minute that other clients make from the same quota"),
        ("ramp", amount, "input tokens in the first minute: a limit that grows with use"),
        ("ramp_step", amount, "input tokens by which the ramp grows each minute (default: 10000)"),
        ("count_rpm", amount, "requests a minute to count_tokens"),
        ("max_concurrency", whole(1), "requests in flight"),
        ("concurrency_retry_after", whole(1), "seconds in retry-after when too many are in flight"),
        ("overload_retry_after", whole(1), "seconds in retry-after of a 529"),
        ("latency", quota_options.seconds, "seconds until an answer is complete"),
        ("batch_seconds", quota_options.seconds, "seconds until a batch has ended (default: 0)"),
        ("output_tokens", whole(1), "length of an answer"),
        ("spend_cap_after", whole(0), "answers until the spend limit is reached"),
        ("seed", whole(0), "of the random faults"),
        ("port", whole(0), "default: a free one"),
    ):
        parser.add_argument(quota_options.flag(name), type=kind, metavar="N", help=meaning)
    parser.add_argument("--host", help="default: 127.0.0.1")
    parser.add_argument(
        "--headers-at",
        choices=("admission", "answer"),
        help="when the rate-limit headers are computed (default: admission)",
    )
    parser.add_argument(
        "--shared-model",
        type=shared_model,
        action="append",
        default=[],
        metavar="MODEL=BUCKET",
        help="a model, and the name of the bucket it shares with others; repeatable",
    )
    parser.add_argument(
        "--fault-rate",
        type=fault_rate,
        action="append",
        default=[],
        metavar="NAME=P",
        help="probability of a fault: 429, 500, 529, reset, stall, garbage, truncated; repeatable",
    )


def fault_rate(text: str) -> tuple[str, float]:
    """Parse ``529=0.02``."""
    name, equals, probability = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must look like 529=0.02, not {text!r}")
    return name, float(quota_options.seconds(probability))


def shared_model(text: str) -> tuple[str, str]:
    """Parse ``claude-opus-4-8=opus``."""
    model, equals, bucket = text.partition("=")
    if not (model and equals and bucket):
        raise argparse.ArgumentTypeError(f"must look like claude-opus-4-8=opus, not {text!r}")
    return model, bucket


def execute(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C, the regular end."""
    with contextlib.ExitStack() as stack:
        try:
            fake = stack.enter_context(_fake(arguments))
        except (OSError, OverflowError, ValueError) as error:
            raise CannotStart(str(error)) from None
        # Ctrl-C may come before serve_forever() handles it.
        with contextlib.suppress(KeyboardInterrupt):
            print(fake.url, flush=True)
            fake.serve_forever()
    return ALL_WELL


def _fake(arguments: argparse.Namespace) -> FakeClaude:
    """The server of the command, with the arguments that were given."""
    handled = ("command", "fault_rate", "shared_model", "batch_seconds")
    names = (name for name in vars(arguments) if name not in handled)
    fake = FakeClaude(
        fault_rates=dict(arguments.fault_rate),
        shared_models=dict(arguments.shared_model),
        log_limit=LOG_LIMIT,
        **quota_options.given(arguments, *names),
    )
    fake.batches.seconds = arguments.batch_seconds or 0.0
    return fake


def fake_api(latency: float, **limits: Any) -> FakeClaude:
    """The API that ``--fake`` starts: the limits of tier Start, unless *limits* has others."""
    fake = FakeClaude(latency=latency, log_limit=FAKE_LOG_LIMIT, **{**TIER_START, **limits})
    fake.batches.seconds = BATCH_SECONDS
    return fake


def settings_for_fake(fake: FakeClaude) -> dict[str, Any]:
    """Settings with which a throttler reaches *fake*, whatever is in the environment."""
    return {"base_url": fake.url, "api_key": KEY, "proxies": {}, "testing": False}
