"""Ask the API what your key may do, and print it: told, learned and in force, for each model.

Limits come with every answer, so one call is made for each --model: a word of input, one token of
output. That costs next to nothing, but it is a call, and it needs a key (ANTHROPIC_API_KEY);
--fake asks a pretended API instead.

  quota      requests, input tokens, output tokens; a minute or a day
  told       what this program was told, by CLAUDE_THROTTLE_RPM and the like
  learned    what the answer's headers say
  in force   the smaller of both
  at once    what may leave at once after a rest; grows as answers come
  left now   what may leave at this moment, others' use of the key included
  from       where the figure in force comes from

The table, or with --json one JSON object, is all that goes to stdout. An amount nobody knows is -,
in JSON null.

Exit code: 0 limits are told for every model, 1 some are not (stderr says why), 2 wrong usage or no
key, 130 interrupted.
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
from claude_throttle.cli import demo_api, outcomes, quota_options
from claude_throttle.cli.exits import ALL_WELL, SOME_FAILED

SUMMARY = "print what your key may do, after one cheap call"

#: The cheapest of the current models (models overview, 2026-11: $0.10 a million tokens in, $0.50
#: out, so a call here is some 0.0002 cents).
CHEAPEST_MODEL = "claude-haiku-5-5"

#: Seconds for everything. A person waits for it.
TIMEOUT_SECONDS = 30

#: Enough for a hiccup; an address where nobody is is told within two seconds.
MAX_RETRIES = 2

NO_HEADERS = "the answer told no limits: no anthropic-ratelimit headers"


class ProbeRequest(NamedTuple):
    """What came of asking."""

    limits: claude_throttle.Limits
    #: By model; None if it answered.
    failures: dict[str, Optional[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything ``limits`` takes."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help=f"whose limits; repeatable (default: {CHEAPEST_MODEL})",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
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
        "--fake", action="store_true", help="ask a pretended API with the limits of tier Start"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Ask and print; returns the exit code."""
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


def _ask(arguments: argparse.Namespace) -> ProbeRequest:
    models = list(dict.fromkeys(arguments.model or [CHEAPEST_MODEL]))
    with contextlib.ExitStack() as stack:
        if arguments.fake:
            fake = stack.enter_context(demo_api.demo_api(latency=0.0))
            settings = demo_api.settings_for(fake)
        else:
            settings = quota_options.of_the_application(arguments)
            if arguments.base_url is not None:
                settings["base_url"] = arguments.base_url
        settings.update(max_retries=MAX_RETRIES, timeout=arguments.timeout)
        throttler = stack.enter_context(quota_options.open_throttler(**settings))
        quota_options.require_key(throttler)
        failures = dict(zip(models, _call(throttler, models)))
        return ProbeRequest(throttler.limits(), failures)


def _call(throttler: claude_throttle.Throttler, models: Sequence[str]) -> list[Optional[str]]:
    calls = [_submit(throttler, model) for model in models]
    return [_reason(call.exception(), throttler.settings.base_url) for call in calls]


def _submit(throttler: claude_throttle.Throttler, model: str) -> futures.Future[Any]:
    messages = [{"role": "user", "content": "Hi"}]
    try:
        return throttler.submit(raw=True, model=model, max_tokens=1, messages=messages)
    except claude_throttle.AccountSuspended as error:  # the model before it was refused already
        refused: futures.Future[Any] = futures.Future()
        refused.set_exception(error)
        return refused


def _reason(error: Optional[BaseException], url: str) -> Optional[str]:
    """Why there is no answer, on one line; None if there is one."""
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


def _reasons(asked: ProbeRequest, known: bool) -> Sequence[str]:
    by_reason: dict[str, list[str]] = {}
    for model, reason in asked.failures.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(model)
    if not by_reason and not known:
        return [NO_HEADERS]
    if len(by_reason) == 1 and len(asked.failures) == len(next(iter(by_reason.values()))):
        return list(by_reason)  # it is not about a model
    return [f"{', '.join(models)}: {reason}" for reason, models in by_reason.items()]


def as_json(limits: claude_throttle.Limits) -> dict[str, Any]:
    """The same as the table, by name; what has no bound is null."""
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
    return state


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
