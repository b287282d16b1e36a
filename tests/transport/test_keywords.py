"""Keywords that are no fields of a request: sent where the SDK sends them, or refused by name."""

from __future__ import annotations

import dataclasses

import anthropic
import pytest

from claude_throttle import InvalidCall, Priority, Settings, Throttler
from claude_throttle.testing import ClaudeApi
from tests.support.calls import MODEL, ask
from tests.support.sdk_releases import NOT_GIVEN, OMIT

BETA = "anthropic-beta"


@pytest.fixture(scope="module")
def api():
    with ClaudeApi() as server:
        yield server


@pytest.fixture
def sent(api, throttle):
    """``sent(**keywords)`` makes a call; returns its body and its arrival, as the API has it."""
    throttler = throttle(api, default_headers={BETA: "first,second", "x-team": "a"})

    def call(**keywords):
        throttler.call(**ask(**keywords))
        return api.asked[-1], api.arrivals[-1]

    return call


@pytest.fixture
def refused():
    """``refused(**keywords)`` is what a call is refused with, before it costs anything."""
    throttler = Throttler(api_key="sk-key")

    def words(**keywords):
        with pytest.raises(InvalidCall) as caught:
            throttler.submit(**ask(**keywords))
        return str(caught.value)

    return words


def test_betas_go_into_their_header_with_the_accounts_and_the_calls_own(sent):
    """Each once, in the order of defaults, extra headers, betas; none in the body."""
    body, arrival = sent(betas=["third", "first"], extra_headers={"Anthropic-Beta": "fourth"})
    assert arrival.headers[BETA] == "first,second,fourth,third"
    assert set(body) == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize("none", [None, [], (), NOT_GIVEN, OMIT])
def test_no_betas_leave_the_accounts_own(sent, none):
    """As the SDK's default."""
    assert sent(betas=none)[1].headers[BETA] == "first,second"


@pytest.mark.parametrize("betas", ["a-2026", b"a", {"a": 1}, [1], 5, [None]])
def test_betas_are_a_list_of_names(refused, betas):
    """A bare string would be taken apart, letter by letter."""
    assert refused(betas=betas) == 'betas= must be a list of names: betas=["…"]'


def test_extra_body_replaces_adds_and_removes_as_the_sdk_merges(sent):
    """Nested fields are not merged; what it says of the model and the tokens holds."""
    body, arrival = sent(
        system="one",
        metadata={"user_id": "a"},
        extra_body={
            "max_tokens": 7,
            "temperature": 0.5,
            "metadata": {"b": 1, "c": NOT_GIVEN},
            "system": OMIT,
        },
    )
    assert body == {
        "model": MODEL,
        "max_tokens": 7,
        "messages": ask()["messages"],
        "temperature": 0.5,
        "metadata": {"b": 1},
    }
    assert arrival.model == MODEL


def test_extra_query_goes_into_the_url_as_the_sdk_writes_it(sent):
    """Lists with brackets, truth in lower case, and nothing for None."""
    query = {"beta": True, "tags": ["a b", "c"], "deep": {"x": 1}, "none": None, "gone": OMIT}
    written = "beta=true&tags%5B%5D=a+b&tags%5B%5D=c&deep%5Bx%5D=1"  # anthropic 2.14, _qs.py
    assert sent(extra_query=query)[1].query == written


def test_a_header_that_is_omitted_is_not_sent(sent):
    """As the SDK does with a default header; a key among them is not the account's fault."""
    headers = sent(extra_headers={"X-Team": OMIT, BETA: OMIT, "x-own": "1"})[1].headers
    assert "x-team" not in headers
    assert BETA not in headers
    assert headers["x-own"] == "1"


def test_ids_that_the_sdk_sends_as_headers_are_no_fields_of_the_body(sent):
    """The call's own headers come before them."""
    body, arrival = sent(
        user_profile_id="u1", workspace_id="w1", extra_headers={"Anthropic-Workspace-Id": "w2"}
    )
    assert arrival.headers["anthropic-user-profile-id"] == "u1"
    assert arrival.headers["anthropic-workspace-id"] == "w2"
    assert set(body) == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize("nothing", [NOT_GIVEN, OMIT])
def test_what_is_not_given_is_as_if_it_were_left_out(sent, nothing):
    """Every keyword of ours, and parameters of the API."""
    names = (
        *("tenant", "priority", "timeout", "block", "betas", "extra_headers", "extra_body"),
        *("extra_query", "system", "tools", "stream", "user_profile_id", "speed"),
    )
    body, _arrival = sent(**dict.fromkeys(names, nothing))
    assert body == {key: ask()[key] for key in ("model", "max_tokens", "messages")}


def test_stream_false_is_what_a_call_is_anyway(sent):
    """As code for the SDK says it."""
    assert "stream" not in sent(stream=False)[0]


@pytest.mark.parametrize(
    "keywords", [{"stream": True}, {"extra_body": {"stream": True}}], ids=["own", "extra_body"]
)
def test_a_stream_is_asked_for_by_its_method(refused, keywords):
    """Wherever it is written."""
    assert refused(**keywords).endswith("use throttler.stream(…)")


def test_a_setting_is_no_parameter_of_a_call(refused):
    """It would have no effect in the body; only timeout= is both."""
    for name in {field.name for field in dataclasses.fields(Settings)} - {"timeout"}:
        assert refused(**{name: "sk-secret"}).startswith(f"{name}= is no parameter of a call: ")


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("headers", "extra_headers="),
        ("aws_secret_key", "client of the SDK"),
        ("content", "messages="),
        ("_strict_response_validation", "leave it out"),
        ("http_client", "middleware=[throttler.middleware()]"),
        ("response_model", "output_config="),
        ("max_tokens_to_sample", "max_tokens="),
        ("default_query", "extra_query="),
        ("custom_id", "throttler.batches.submit"),
        ("return_exceptions", "throttler.map"),
        ("requests_per_minute", "Throttler("),
    ],
)
def test_a_keyword_from_elsewhere_is_refused_with_what_to_write(refused, name, instead):
    """The SDK's clients, other libraries, our other methods."""
    words = refused(**{name: "sk-secret"})
    assert words.startswith(f"{name}= is no parameter of a call: ")
    assert instead in words
    assert "sk-secret" not in words


@pytest.mark.parametrize(
    ("name", "value"),
    [("extra_body", "x"), ("extra_body", [1]), ("extra_query", "a=b"), ("extra_headers", [1])],
)
def test_what_must_be_a_dict_is_refused_by_its_name(refused, name, value):
    """Nothing is sent."""
    assert refused(**{name: value}).startswith(name)


@pytest.mark.parametrize("name", ["interactive", " Batch ", Priority.NORMAL.name, 20.0])
def test_a_priority_has_a_name_in_any_case(throttle, api, name):
    """It leaves as the number would."""
    assert throttle(api).call(**ask(priority=name))


@pytest.mark.parametrize("value", ["urgent", "", "0", 1.5, None, float("nan")])
def test_a_wrong_priority_is_told_the_right_ones(refused, value):
    """By name."""
    words = refused(priority=value)
    assert words.startswith(
        'priority= must be a whole number or one of "interactive", "normal", "batch"'
    )


def test_the_sdks_timeout_is_taken_by_its_seconds_to_read(sent):
    """``timeout=60`` means just that to the SDK."""
    assert sent(timeout=anthropic.Timeout(60, connect=5))
    assert sent(timeout=anthropic.Timeout(None))
