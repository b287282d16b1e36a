"""An account that is gone, in whatever words: suspended; what a caller wrote suspends nobody."""

from __future__ import annotations

import pytest

from claude_throttle.cli.main import main
from claude_throttle.testing import KEY_REFUSED, ORGANIZATION_DISABLED, Garbage
from claude_throttle.testing.replies import error_body
from claude_throttle.transport.verdicts import classify
from tests.support.command import FAST, prompts

DISABLED, KEY, SPEND, BILLING = "account disabled", "key refused", "spend limit", "billing"


def reason(status, body):
    """Why the account is refused; None if it is not."""
    verdict = classify(status, {}, body, 0.0)
    account = verdict.feedback.account
    assert not (account and verdict.retry)
    return None if account is None else account.reason


def said(status, message="", kind="invalid_request_error", code=None):
    return reason(status, error_body(kind, message, "req_1", code))


WORDS = [
    (DISABLED, "This organization has been disabled."),
    (DISABLED, "Your account has been disabled after an automatic review of your activities."),
    (DISABLED, "Your organization has been suspended. Contact support."),
    (DISABLED, "Workspace wrkspc_01 is archived and cannot be used."),
    (DISABLED, "This organization's access to the API has been disabled"),
    (DISABLED, "The organization associated with this API key was deactivated"),
    (DISABLED, "API access has been revoked for your organization"),
    (DISABLED, "This organization is on hold."),
    (DISABLED, "Your account has been temporarily locked"),
    (KEY, "This credential is only authorized for use with Claude Code and not for the API."),
    (KEY, "Your API key has expired"),
    (KEY, "This API key is no longer valid."),
    (KEY, "OAuth token has been revoked. Please obtain a new token."),
    (SPEND, "Your credit balance is too low to access the Claude API."),
    (SPEND, "Your organization has run out of credits"),
    (SPEND, "Insufficient credits."),
    (SPEND, "You have exceeded your spend limit"),
    (SPEND, "Your last payment failed"),
    (SPEND, "Your organization hit its monthly spend limit"),
    (SPEND, "You're out of extra usage. Add more in your settings."),
    (DISABLED, "API access for this organization was turned off"),
    (DISABLED, "Your organization Acme Corp has been disabled"),
    (DISABLED, "Organization 0a1b2c3d-0000-4000-8000-0000000000aa is suspended"),
    (DISABLED, "Your organization has been blocked from using the API"),
    (DISABLED, "This organization was disabled for violating our usage policy"),
]


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(("why", "message"), WORDS, ids=[message[:50] for _, message in WORDS])
def test_the_apis_own_words_suspend_the_account(status, why, message):
    assert said(status, message) == why


@pytest.mark.parametrize(
    ("why", "status", "kind", "code"),
    [
        (SPEND, 400, "invalid_request_error", "organization_on_hold"),
        (SPEND, 402, "billing_error", "linked_organization_billing_unavailable"),
        (SPEND, 403, "permission_error", "workspace_spend_limit_reached"),
        (DISABLED, 400, "invalid_request_error", "organization_disabled"),
        (DISABLED, 403, "permission_error", "account_suspended"),
        (DISABLED, 404, "not_found_error", "workspace_archived"),
        (KEY, 400, "invalid_request_error", "api_key_expired"),
        (KEY, 401, "authentication_error", "api_key_disabled"),
        (KEY, 403, "authentication_error", None),
        (BILLING, 403, "billing_error", None),
        (BILLING, 402, "billing_error", None),
    ],
)
def test_codes_and_types_come_before_words(why, status, kind, code):
    assert said(status, "You can't do this.", kind, code) == why


@pytest.mark.parametrize(
    "message",
    [
        "messages.0.content: This organization has been disabled.",
        "messages: Your credit balance is too low",
        "Invalid value 'This organization has been disabled.' for system",
        'Your tool result "credits exhausted" is not valid',
        "Your organization has disabled web search",
        "Web search has been disabled for your organization",
        "Access to web search is disabled for your organization",
        "Access to Web Search has been disabled",
        "Access to this beta is closed",
        "Your organization's web search has been disabled",
        "Your organization's access to claude-opus-5 has been revoked",
        "Your organization is only authorized to use claude-haiku-4-5",
        "Your workspace is blocked from using the code execution tool",
        "API access is disabled for this model",
        "Your account's batch access is blocked",
        "Your account is locked to version 2023-06-01",
        "The workspace file was deleted",
        "The key file_123 was deleted",
        "This workspace is not archived",
        "prompt is too long: 200001 tokens > 200000 maximum",
        "The billing_policy parameter is invalid",
        "Output blocked by content filtering policy",
        "Your organization does not have access to this model",
    ],
)
def test_what_a_caller_may_have_written_suspends_nobody(message):
    assert said(400, message) is None


@pytest.mark.parametrize(
    "body",
    [
        b"This organization has been disabled.",
        b'{"error": {"message": "This organization has been disabled."}}',
        b'{"message": "Your credits are exhausted"}',
        b'{"type": "message", "error": {"message": "Your account has been disabled"}}',
    ],
)
def test_only_the_apis_own_envelope_counts(body):
    assert reason(400, body) is None


@pytest.mark.parametrize("status", [500, 503, 529])
def test_an_outage_is_no_problem_of_the_account(status):
    assert said(status, "This organization has been disabled.", "billing_error") is None


# -- claude-throttle run ---------------------------------------------------------------------------


@pytest.fixture
def run(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    server = fake()

    def run_lines(count, *more):
        path = prompts(tmp_path / "in", [str(n) for n in range(count)])
        there = ["--base-url", server.url, *FAST, *more]
        return main(["run", str(path), "-o", str(tmp_path / "out"), *there])

    run_lines.server = server
    return run_lines


@pytest.mark.parametrize("count", [4, 100])
def test_run_stops_and_leaves_the_rest_for_later(run, capsys, count):
    run.server.outage(reply=ORGANIZATION_DISABLED)
    assert run(count, "--max-concurrency", "4") == 1
    said = capsys.readouterr().err
    assert "stopped: the API refuses this account" in said
    assert "This organization has been disabled." in said
    assert len(run.server.arrivals) <= 8
    run.server.outage(False)
    assert run(count) == 0


def test_run_says_which_lines_may_be_paid_twice(run, capsys):
    """Two answers were no whole messages; then the account was refused."""
    run.server.script(*[Garbage(b"{}", 200)] * 2, *[KEY_REFUSED] * 9)
    assert run(30, "--max-concurrency", "1") == 1
    said = capsys.readouterr().err
    assert "2 that failed without an answer may be billed" in said
