"""What the fake server does beside messages: counting tokens, listing limits, account problems."""

from __future__ import annotations

import pytest
import requests

from claude_throttle import testing
from claude_throttle.testing import FakeClaude, ManualClock
from tests.support.fake_http import HEADERS, KEY, ask, body

ADMIN = {"x-api-key": "sk-ant-admin01-wxyz"}


def count(server, text="x" * 40, headers=HEADERS):
    url = server.url + "/v1/messages/count_tokens"
    return requests.post(url, json=body(text), headers=headers, timeout=5)


def listed(server, headers=ADMIN, **query):
    url = server.url + "/v1/organizations/rate_limits"
    return requests.get(url, params=query, headers=headers, timeout=5)


def groups(answer):
    return [entry["group"].get("display_name") for entry in answer.json()["data"]]


def test_counting_has_a_quota_of_its_own():
    """It takes nothing from messages, and they take nothing from it."""
    clock = ManualClock()
    with FakeClaude(rpm=1, count_rpm=2, clock=clock) as server:
        statuses = [count(server).status_code for _ in range(3)]
        statuses += [ask(server).status_code for _ in range(2)]
        refused = count(server)
        clock.advance(30)
        last = count(server)
    assert statuses == [200, 200, 429, 200, 429]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert "2 requests per minute" in refused.json()["error"]["message"]
    assert last.json() == {"input_tokens": 10}


def test_counting_is_logged_apart():
    """Whoever judges the pace of messages must not meet it; the path tells what it was."""
    with FakeClaude(count_rpm=60, count_burst=1, clock=ManualClock()) as server:
        ask(server)
        assert [count(server).status_code for _ in range(2)] == [200, 429]
        arrivals, others = server.arrivals, server.other_arrivals
    assert [arrival.path for arrival in arrivals] == ["/v1/messages"]
    assert [(a.path, a.status, a.admitted) for a in others] == [
        ("/v1/messages/count_tokens", 200, True),
        ("/v1/messages/count_tokens", 429, False),
    ]
    assert (others[0].model, others[0].input_tokens) == ("claude-sonnet-5", 10)
    assert KEY not in str(others)


def test_the_quota_of_counting_changes_while_running():
    """Like every other limit."""
    with FakeClaude(count_rpm=1, clock=ManualClock()) as server:
        assert [count(server).status_code for _ in range(2)] == [200, 429]
        server.limits(count_rpm=None)
        assert count(server).status_code == 200


def test_counting_asks_for_a_good_key():
    """As messages do; the refusal takes nothing."""
    with FakeClaude(api_keys={KEY}, count_rpm=1) as server:
        assert count(server, headers={"x-api-key": "other"}).status_code == 401
        assert count(server).status_code == 200


def test_an_entry_has_the_shape_of_the_api():
    """Every field of the SDK's OrganizationRateLimit; values are those enforced."""
    with FakeClaude(rpm=50, itpm=30_000, otpm=8_000) as server:
        answer = listed(server, model="claude-sonnet-5")
        seen = server.other_arrivals[-1]
    assert answer.json() == {
        "data": [
            {
                "id": "rl_claude-sonnet-5",
                "type": "rate_limit",
                "group": {
                    "id": "rlg_claude-sonnet-5",
                    "type": "model_group",
                    "display_name": "claude-sonnet-5",
                },
                "models": ["claude-sonnet-5"],
                "limits": [
                    {"type": "requests_per_minute", "value": 50},
                    {"type": "input_tokens_per_minute_cache_aware", "value": 30_000},
                    {"type": "output_tokens_per_minute", "value": 8_000},
                ],
            }
        ],
        "next_page": None,
    }
    assert (seen.path, seen.status) == ("/v1/organizations/rate_limits", 200)
    assert seen.key_tail == "wxyz"


def test_models_that_share_a_bucket_are_one_group():
    """Also those the server knows only because they were called."""
    shared = {"claude-opus-4-8": "opus", "claude-opus-4-7": "opus"}
    with FakeClaude(rpm=50, shared_models=shared) as server:
        ask(server, model="my-model")
        found = {e["group"]["display_name"]: e["models"] for e in listed(server).json()["data"]}
    assert found["opus"] == ["claude-opus-4-8", "claude-opus-4-7"]
    assert found["my-model"] == ["my-model"]
    assert "claude-opus-4-8" not in found
    assert found["claude-sonnet-5"] == ["claude-sonnet-5"]


def test_limits_are_listed_as_they_are_now():
    """What is unlimited has no entry; counting tokens is a group without models."""
    with FakeClaude() as server:
        assert listed(server).json() == {"data": [], "next_page": None}
        server.limits(count_rpm=2000)
        (entry,) = listed(server).json()["data"]
        server.limits(rpm=7)
        value = listed(server, model="claude-opus-5").json()["data"][0]["limits"][0]["value"]
    assert entry["group"] == {"id": "rlg_token_count", "type": "token_count"}
    assert entry["models"] is None
    assert entry["limits"] == [{"type": "requests_per_minute", "value": 2000}]
    assert value == 7


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_pages_hold_everything_once(size):
    """next_page leads on until it is null."""
    with FakeClaude(rpm=50, count_rpm=5) as server:
        whole = groups(listed(server))
        found, page = [], {}
        while page is not None:
            answer = listed(server, limit=size, **page)
            found += groups(answer)
            following = answer.json()["next_page"]
            page = {"page": following} if following else None
            assert len(groups(answer)) <= size
    assert found == whole
    assert len(whole) > 10


def test_a_kind_of_group_can_be_asked_for():
    """As the SDK's group_type."""
    with FakeClaude(rpm=50, count_rpm=5) as server:
        assert groups(listed(server, group_type="token_count")) == [None]
        assert None not in groups(listed(server, group_type="model_group"))
        assert groups(listed(server, group_type="batch")) == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"limit": "0"}, 400),
        ({"limit": "1001"}, 400),
        ({"limit": "9" * 5000}, 400),
        ({"page": "page_-1"}, 400),
        ({"page": "elsewhere"}, 400),
    ],
)
def test_a_list_that_cannot_be_is_refused(query, status):
    """With the status the documentation names."""
    with FakeClaude(rpm=50) as server:
        assert listed(server, **query).status_code == status


def test_only_admin_keys_may_ask():
    """An ordinary key is no admin key; a list of them, if there is one, is all of them."""
    with FakeClaude(rpm=50) as server:
        assert listed(server, HEADERS).status_code == 401
        assert listed(server, {}).status_code == 401
        assert listed(server).status_code == 200
    with FakeClaude(rpm=50, admin_keys={"chosen"}) as server:
        assert listed(server).status_code == 401
        assert listed(server, {"authorization": "Bearer chosen"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "status", "error_type", "code", "words"),
    [
        ("OWN_SPEND_LIMIT", 400, "invalid_request_error", None, "You have reached your specified"),
        ("WORKSPACE_SPEND_LIMIT", 400, "invalid_request_error", None, "specified workspace API"),
        ("CREDIT_TOO_LOW", 400, "invalid_request_error", None, "Your credit balance is too low"),
        (
            "CONTRACT_SPEND_LIMIT",
            429,
            "rate_limit_error",
            "contract_spend_limit_reached",
            "contract",
        ),
        ("BILLING_PROBLEM", 402, "billing_error", None, "billing"),
        (
            "LINKED_SPEND_LIMIT",
            402,
            "billing_error",
            "linked_organization_spend_limit_reached",
            "linked organization",
        ),
        (
            "ORGANIZATION_ON_HOLD",
            400,
            "invalid_request_error",
            "organization_on_hold",
            "has been disabled",
        ),
        ("KEY_REFUSED", 401, "authentication_error", None, "invalid x-api-key"),
        ("NOT_PERMITTED", 403, "permission_error", None, "permission"),
    ],
)
def test_account_problems_are_told_as_the_api_tells_them(name, status, error_type, code, words):
    """Status, type, code and text; no retry-after, since no waiting helps."""
    with FakeClaude() as server:
        server.script(getattr(testing, name))
        answer = ask(server)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, error_type)
    assert error.get("details") == (code and {"error_code": code})
    assert words in error["message"]
    assert "retry-after" not in answer.headers
    assert answer.headers.get("x-should-retry") == ("false" if status == 400 else None)
