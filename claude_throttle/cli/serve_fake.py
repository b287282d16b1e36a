"""Serve a Claude API on loopback that enforces quotas, until Ctrl-C.

The first line on stdout is its URL. Any key is let in.
"""

from __future__ import annotations

import argparse
import contextlib

from claude_throttle.cli import quota_options
from claude_throttle.cli.exits import ALL_WELL, CannotStart
from claude_throttle.testing import FakeClaude

SUMMARY = "serve a pretended Claude API that enforces quotas"

#: Arrivals kept: nobody here asks for the log.
LOG_LIMIT = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything ``serve-fake`` takes."""
    amount, whole = quota_options.amount, quota_options.whole
    for name, kind, meaning in (
        ("rpm", amount, "requests a minute and model (default: no limit)"),
        ("itpm", amount, "input tokens a minute and model"),
        ("otpm", amount, "output tokens a minute and model"),
        ("burst", amount, "requests that may come at once (default: a minute's worth)"),
        ("promised_burst", amount, "requests the headers say may come at once, whatever is true"),
        ("others_rpm", amount, "requests a minute that somebody else makes from the same quota"),
        ("ramp", amount, "input tokens in the first minute: a cap that grows with use"),
        ("ramp_step", amount, "what the ramp grows by with each minute (default: 10000)"),
        ("count_rpm", amount, "requests a minute to count_tokens"),
        ("max_concurrency", whole(1), "requests in flight"),
        ("concurrency_retry_after", whole(1), "seconds told when too many are in flight"),
        ("overload_retry_after", whole(1), "seconds told with a 529"),
        ("latency", quota_options.seconds, "seconds until an answer is complete"),
        ("batch_seconds", quota_options.seconds, "seconds until a batch has ended (default: 0)"),
        ("output_tokens", whole(1), "length of an answer"),
        ("spend_cap_after", whole(0), "answers until the spend limit is reached"),
        ("seed", whole(0), "of the faults"),
        ("port", whole(0), "default: a free one"),
    ):
        parser.add_argument(quota_options.flag(name), type=kind, metavar="N", help=meaning)
    parser.add_argument("--host", help="default: 127.0.0.1")
    parser.add_argument(
        "--headers-at",
        choices=("admission", "answer"),
        help="when the headers' account of the limits is taken (default: admission)",
    )
    parser.add_argument(
        "--shared-model",
        type=shared_model,
        action="append",
        default=[],
        metavar="MODEL=BUCKET",
        help="a model that shares a bucket with others of the same name; repeatable",
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
    """``529=0.02``."""
    name, equals, probability = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must look like 529=0.02, not {text!r}")
    return name, float(quota_options.seconds(probability))


def shared_model(text: str) -> tuple[str, str]:
    """``claude-opus-4-8=opus``."""
    model, equals, bucket = text.partition("=")
    if not (model and equals and bucket):
        raise argparse.ArgumentTypeError(f"must look like claude-opus-4-8=opus, not {text!r}")
    return model, bucket


def execute(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C, which is how it is meant to end."""
    with contextlib.ExitStack() as stack:
        try:
            fake = stack.enter_context(_fake(arguments))
        except (OSError, OverflowError, ValueError) as error:
            raise CannotStart(str(error)) from None
        # It may come before serve_forever() is ready to take it.
        with contextlib.suppress(KeyboardInterrupt):
            print(fake.url, flush=True)
            fake.serve_forever()
    return ALL_WELL


def _fake(arguments: argparse.Namespace) -> FakeClaude:
    gathered = ("command", "fault_rate", "shared_model", "batch_seconds")
    names = (name for name in vars(arguments) if name not in gathered)
    fake = FakeClaude(
        fault_rates=dict(arguments.fault_rate),
        shared_models=dict(arguments.shared_model),
        log_limit=LOG_LIMIT,
        **quota_options.told(arguments, *names),
    )
    fake.batches.seconds = arguments.batch_seconds or 0.0
    return fake
