"""Ask the API for the limits of your key and print them: told, learned and in force, by model.

Limits come with every answer, so one call is made for each --model: a word of input, one token of
output. That costs next to nothing, but it is a call, and it needs a key (ANTHROPIC_API_KEY);
--fake asks a fake API instead.

  quota      requests, input tokens, output tokens; a minute or a day
  told       configured, by CLAUDE_THROTTLE_RPM and similar variables
  learned    from the headers of the answer
  in force   the smaller of both
  at once    what may be sent at once after a pause; grows as answers come
  left now   what may be sent now, with other users of the key taken into account
  from       the origin of the figure in force

Only the table, or with --json one JSON object, goes to stdout. An unknown amount is -, in JSON
null.

Exit code: 0 the limits of every model are known, 1 some are not (stderr says why), 2 wrong usage or
no key, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NamedTuple, Optional

import claude_throttle
from claude_throttle.cli import ALL_WELL, SOME_FAILED, outcomes, quota_options, serve_fake

SUMMARY = "print the limits of your key, after one cheap call"

#: The cheapest of the current models (models overview, 2026-11: $0.10 a million tokens in, $0.50
#: out, so a call here is some 0.0002 cents).
CHEAPEST_MODEL = "claude-haiku-5-5"

#: Seconds for everything: a person is waiting.
TIMEOUT_SECONDS = 30

#: Re-sends of a refused call: enough for a passing fault, and a wrong address is reported within
#: two seconds.
MAX_RETRIES = 2

#: Shown when the call was answered without limits, as by a gateway that removes the headers.
NO_HEADERS = "no limits are known: the answer has no anthropic-ratelimit headers"


class Answers(NamedTuple):
    """The outcome of the calls: the limits that are known now, and the models whose call failed."""

    limits: claude_throttle.Limits
    #: The reason by model; None where the call was answered.
    failures: dict[str, Optional[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``limits``."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help=f"the model whose limits are printed; repeatable (default: {CHEAPEST_MODEL})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--timeout",
        type=quota_options.amount,
        default=TIMEOUT_SECONDS,
        metavar="N",
        help=f"seconds to wait for the answers ({TIMEOUT_SECONDS})",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--base-url", metavar="URL", help="another server than the Claude API")
    where.add_argument(
        "--fake", action="store_true", help="ask a fake API with the limits of tier Start"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Ask the API and print the limits; return the exit code."""
    asked = _ask(arguments)
    known = any(lane.quotas for lane in asked.limits.values())
    if arguments.json:
        print(json.dumps(as_json(asked.limits), indent=2, allow_nan=False))
    elif known:
        print(asked.limits)
    reasons = list(_reasons(asked, known))
    for reason in reasons:
        print(f"claude-throttle limits: {reason}", file=sys.stderr)
    return SOME_FAILED if reasons else ALL_WELL


def _ask(arguments: argparse.Namespace) -> Answers:
    """Make one call for each model, and return the limits that the throttler knows afterwards."""
    models = list(dict.fromkeys(arguments.model or [CHEAPEST_MODEL]))
    with contextlib.ExitStack() as stack:
        if arguments.fake:
            fake = stack.enter_context(serve_fake.fake_api(latency=0.0))
            settings = serve_fake.settings_for_fake(fake)
        else:
            settings = quota_options.application_settings(arguments)
            if arguments.base_url is not None:
                settings["base_url"] = arguments.base_url
        settings.update(max_retries=MAX_RETRIES, timeout=arguments.timeout)
        throttler = stack.enter_context(quota_options.open_throttler(**settings))
        quota_options.require_key(throttler)
        failures = dict(zip(models, _call(throttler, models)))
        return Answers(throttler.limits(), failures)


def _call(throttler: claude_throttle.Throttler, models: Sequence[str]) -> list[Optional[str]]:
    calls = [_submit(throttler, model) for model in models]
    return [_reason(call.exception(), throttler.settings.base_url) for call in calls]


def _submit(throttler: claude_throttle.Throttler, model: str) -> futures.Future[Any]:
    """Submit one minimal call. If the account is suspended already, a future with that error.

    The first model's refusal may suspend the account while the others are still being submitted.
    """
    try:
        return throttler.submit(
            raw=True,
            model=model,
            max_tokens=1,
            messages=[{"role": "user", "content": "Hi"}],
        )
    except claude_throttle.AccountSuspended as error:  # the first model was refused already
        refused: futures.Future[Any] = futures.Future()
        refused.set_exception(error)
        return refused


def _reason(error: Optional[BaseException], url: str) -> Optional[str]:
    """Why a call failed, on one line; None if it was answered."""
    if error is None:
        return None
    result = outcomes.errored(error)
    kind, words = outcomes.kind(result), outcomes.words(result)
    status = getattr(error, "status_code", None)
    if isinstance(error, claude_throttle.AccountSuspended):
        return outcomes.suspended(error)
    if isinstance(error, claude_throttle.DeadlineExceeded):
        return f"{url}: no answer in time; --timeout gives it more"
    if status == 401:
        return f"the API refuses this key: {words}; check ANTHROPIC_API_KEY"
    if trouble := outcomes.account_trouble(error):
        return trouble
    if status is not None:
        return f"{kind} ({status}): {words}"
    return f"{url}: {words}"


def _reasons(asked: Answers, known: bool) -> Sequence[str]:
    """Why limits are not known, for stderr: each reason once, with the models it concerns."""
    by_reason: dict[str, list[str]] = {}
    for model, reason in asked.failures.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(model)
    if not by_reason and not known:
        return [NO_HEADERS]
    if len(by_reason) == 1 and len(asked.failures) == len(next(iter(by_reason.values()))):
        return list(by_reason)  # the same for all models
    return [f"{', '.join(models)}: {reason}" for reason, models in by_reason.items()]


def as_json(limits: claude_throttle.Limits) -> dict[str, Any]:
    """The table as JSON; what has no limit is null."""
    return {
        "max_concurrency": _finite(limits.max_concurrency),
        "in_flight": limits.in_flight,
        "lanes": {name: _lane(lane) for name, lane in limits.items()},
    }


def _lane(lane: claude_throttle.LaneState) -> dict[str, Any]:
    state = lane._asdict()
    del state["lane"]
    state["quotas"] = [
        {name: _finite(value) for name, value in quota._asdict().items()} for quota in lane.quotas
    ]
    for shown in ("priority", "windows"):
        state[shown] = {name: one._asdict() for name, one in (state[shown] or {}).items()}
    return state


def _finite(value: Any) -> Any:
    """The value, or None in place of infinity and NaN, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
