"""What the API's refusals mean for a visitor of a web application."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from claude_throttle import QueueFull, api_refusal
from claude_throttle.contrib.unavailable import is_refusal, unavailable
from claude_throttle.transport import sdk
from tests.support.sdk_errors import URL, status_error


@pytest.mark.parametrize(
    ("error", "kind", "seconds"),
    [
        (status_error(429, headers={"retry-after": "7"}), "rate_limited", 7),
        (status_error(529), "overloaded", None),
        (status_error(529, headers={"retry-after": "30"}), "overloaded", 30),
        (status_error(503, kind="api_error"), "overloaded", None),
        (status_error(502, kind="api_error"), "no_connection", None),
        (status_error(522, kind="api_error"), "no_connection", None),
        (status_error(401), "account_refused", None),
        (status_error(402), "account_refused", None),
        (status_error(400, "Your credit balance is too low to use it."), "account_refused", None),
        (status_error(200, kind="overloaded_error"), "overloaded", None),
        (sdk.connection_error(URL, "reset"), "no_connection", None),
    ],
)
def test_what_passes_and_what_does_not_are_told_apart(error, kind, seconds):
    refusal = api_refusal(error)
    assert refusal == (kind, seconds)
    assert refusal.passing is (kind != "account_refused")
    answer = unavailable(error)
    assert (answer.kind, answer.passing) == (kind, refusal.passing)
    assert answer.retry_after == (seconds or 5)
    assert json.loads(json.dumps(answer.json))["error"]["type"] == kind


@pytest.mark.parametrize(
    "error",
    [
        status_error(400),
        status_error(413),
        status_error(404),
        # They may be billed: nobody is invited to repeat them.
        status_error(500),
        status_error(504),
        status_error(200, kind="api_error"),
        sdk.timeout_error(URL, "no answer in time"),
        KeyError("x"),
        QueueFull(""),
    ],
)
def test_what_concerns_one_call_or_may_be_billed_is_no_refusal(error):
    assert api_refusal(error) is None


def test_the_setting_leaves_refusals_of_the_api_out_and_ours_in():
    assert is_refusal(status_error(529))
    assert not is_refusal(status_error(529), api_errors=False)
    assert is_refusal(QueueFull(""), api_errors=False)


def test_the_sdk_is_not_imported_to_tell():
    text = (
        "import sys; from claude_throttle import api_refusal; print(api_refusal(KeyError()));"
        " print('anthropic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]
