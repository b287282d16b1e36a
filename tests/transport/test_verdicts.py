"""The verdict table: every line of it, and the server's wishes over each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from claude_throttle.core.domain.feedback import (
    ACCOUNT,
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    RampLimit,
)
from claude_throttle.transport import verdicts as answers
from claude_throttle.transport.verdicts import RULES, SPEND_CODES, classify, error_code

WALL = 1795262400.0

RETRIED = {408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}

CROWDED = "Number of concurrent connections has exceeded your rate limit. Please try again later"
CROWDED_2023 = "Number of concurrent connections to Claude exceeds your rate limit"
TOO_FAST = (
    "This request would exceed your organization's maximum usage increase rate for input tokens per"
    " minute (org: o, model: m). Your current limit is {} input tokens per minute, and will"
    " increase to {} at the next minute boundary. Please scale up your input tokens usage more"
    " gradually to stay within the acceleration limit."
)
RATE_TEXT = "This request would exceed your organization's rate limit of 30,000 {} per minute (org:"


def verdict(status, code=None, message="", **headers):
    error = {"type": "x", "message": message, "details": {"error_code": code}}
    fields = CaseInsensitiveDict({k.replace("_", "-"): v for k, v in headers.items()})
    return classify(status, fields, json.dumps({"type": "error", "error": error}).encode(), WALL)


def statuses(which, **headers):
    """The statuses whose verdict has that attribute."""
    return {s for s in range(300, 600) if getattr(verdict(s, **headers), which)}


def causes(**headers):
    """The statuses by what the pace understands of them."""
    found = {}
    for status in range(300, 600):
        found.setdefault(verdict(status, **headers).feedback.cause, set()).add(status)
    return found


# -- by status -------------------------------------------------------------------------------------


def test_what_is_tried_again_by_its_status():
    """Thirteen of them, whether or not the server says when; nothing else."""
    assert statuses("retry", retry_after="3") == RETRIED
    assert statuses("retry") == RETRIED


def test_what_the_pace_understands_by_the_status():
    """A 409 and whatever is not in the table say nothing about it."""
    understood = causes(retry_after="3")
    understood.pop("")
    assert understood == {
        RATE: {429},
        OVERLOAD: {529},
        ACCOUNT: {401, 402, 403},
        FAULT: RETRIED - {409, 429, 529},
    }


@pytest.mark.parametrize("status", [501, 505, 511, 525, 530, 599])
def test_a_server_error_nobody_knows_is_final(status):
    """And no sign of an outage."""
    said = verdict(status, retry_after="3")
    assert (said.retry, said.reason, said.feedback.cause) == (False, f"status {status}", "")


def test_the_servers_word_goes_before_the_table():
    """x-should-retry, in both directions."""
    assert statuses("retry", x_should_retry="true") == set(range(300, 600))
    assert statuses("retry", x_should_retry="false", retry_after="1") == set()


@pytest.mark.parametrize("wish", ["", "maybe", "1", "True"])
def test_a_wish_that_is_neither_true_nor_false_says_nothing(wish):
    """The table decides then."""
    assert verdict(500, x_should_retry=wish).retry is True
    assert verdict(400, x_should_retry=wish).retry is False


def test_only_a_429_or_529_that_says_when_pauses_the_lane():
    """Everything else would be refused, too; any other refusal is its call's own."""
    assert statuses("pauses_lane", retry_after="3") == {429, 529}
    assert statuses("pauses_lane", retry_after="3", x_should_retry="false") == {429, 529}
    assert statuses("pauses_lane") == statuses("pauses_lane", x_should_retry="true") == set()
    assert statuses("pauses_lane", retry_after="0") == set()


def test_only_a_429_or_529_took_nothing():
    """A server error may have counted its tokens."""
    for headers in ({}, {"x_should_retry": "true"}, {"x_should_retry": "false"}):
        assert statuses("keeps_tokens", **headers) == set(range(300, 600)) - {429, 529}


@pytest.mark.parametrize("after", [{}, {"retry_after": "3"}])
def test_an_overload_passes_whether_or_not_it_says_when(after):
    """Both were seen."""
    said = verdict(529, **after)
    assert (said.retry, said.reason, said.feedback.cause) == (True, "overloaded", OVERLOAD)
    assert (said.pauses_lane, said.feedback.retry_after) == (bool(after), 3.0 if after else None)


# -- every rule ------------------------------------------------------------------------------------


def instances(rule):
    """A status, a code and a message for everything that the rule knows it by."""
    for status in rule.statuses or (400, 402, 429, 500):
        ways = [(code, "") for code in sorted(rule.codes)]
        ways += [(None, f"Well: {text} ...") for text in rule.texts]
        ways += [(None, f"{beginning} ...") for beginning in rule.beginnings]
        for way in ways or [(None, "")]:
            yield (status, *way)


CASES = [(rule, *case) for rule in RULES for case in instances(rule)]
IDS = [f"{rule.reason}-{status}-{code or text[:30]}" for rule, status, code, text in CASES]
every_case = pytest.mark.parametrize(("rule", "status", "code", "text"), CASES, ids=IDS)


@every_case
def test_a_rule_applies_by_each_of_its_marks(rule, status, code, text):
    """No earlier line takes it away."""
    said = verdict(status, code, text, retry_after="5")
    assert (said.reason, said.retry, said.feedback.cause) == (rule.reason, rule.retry, rule.cause)
    assert (said.feedback.status, said.feedback.retry_after) == (status, 5.0)
    assert said.feedback.final is not said.retry


@every_case
def test_should_retry_false_makes_every_rule_final(rule, status, code, text):
    """The call ends; what the pace understands of it stays."""
    said = verdict(status, code, text, retry_after="5", x_should_retry="false")
    assert (said.retry, said.feedback.final, said.feedback.cause) == (False, True, rule.cause)


@every_case
def test_should_retry_true_goes_before_every_rule_but_a_spend_code(rule, status, code, text):
    """And what is worth another try suspends nobody."""
    said = verdict(status, code, text, x_should_retry="true")
    assert said.retry is (code not in SPEND_CODES)
    if said.retry:
        assert said.feedback.account is None
        assert said.feedback.cause == ("" if rule.cause == ACCOUNT else rule.cause)


@every_case
def test_account_refusals_and_only_they_suspend(rule, status, code, text):
    """The pace gets the reason; nothing pauses on top of it."""
    said = verdict(status, code, text, retry_after="5")
    assert (said.feedback.account is not None) is (rule.cause == ACCOUNT)
    if said.feedback.account is not None:
        assert said.feedback.account[:2] == (rule.reason, text)
        assert not said.pauses_lane


# -- money -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(SPEND_CODES))
@pytest.mark.parametrize("status", [400, 402, 429, 529])
def test_money_does_not_come_back_by_waiting(code, status):
    """Even with retry-after, even where the server says to try again."""
    for headers in ({"retry_after": "5"}, {"x_should_retry": "true"}):
        said = verdict(status, code, **headers)
        assert (said.retry, said.pauses_lane, said.feedback.cause) == (False, False, ACCOUNT)
        assert said.feedback.account.reason == "spend limit"


@pytest.mark.parametrize("message", ["", "Please try again later.", "Something new"])
def test_a_429_that_says_nothing_is_a_rate_limit(message):
    """Tried again after a wait of our own, unless the server asks for none."""
    said = verdict(429, None, message)
    assert (said.retry, said.reason, said.pauses_lane) == (True, "rate limit", False)
    assert (said.feedback.cause, said.feedback.account) == (RATE, None)
    assert verdict(429, None, message, x_should_retry="true").retry is True
    told = verdict(429, None, message, x_should_retry="false")
    assert (told.retry, told.feedback.cause) == (False, "")


@pytest.mark.parametrize("after", [{}, {"retry_after": "97273"}])
def test_words_about_money_in_a_429_are_final_for_their_call(after):
    """Too little is known to stop everything."""
    said = verdict(429, None, "Your team has reached its monthly spend limit.", **after)
    assert (said.retry, said.reason, said.pauses_lane) == (False, "spend limit", False)
    assert (said.feedback.cause, said.feedback.account) == ("", None)


@pytest.mark.parametrize("what", ["requests", "input tokens", "output tokens"])
def test_a_429_that_names_a_quota_passes_even_without_a_time(what):
    """A proxy may have taken retry-after off; in 2024 the API did not send it."""
    said = verdict(429, None, RATE_TEXT.format(what))
    assert (said.retry, said.feedback.cause) == (True, RATE)
    assert said.feedback.kind == what.replace(" ", "_")


QUOTED = "messages.0: tool_use ids were found: "


@pytest.mark.parametrize("text", [b for rule in RULES for b in rule.beginnings])
@pytest.mark.parametrize("status", [400, 404, 429])
def test_what_a_caller_wrote_does_not_suspend_an_account(text, status):
    """A message may quote it; the server's own words are at its beginning."""
    assert verdict(status, None, QUOTED + text).feedback.account is None
    assert verdict(404, None, text).feedback.account is None


# -- ramp and concurrency --------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ramp_limit_exceeded", None, "not_known_yet"])
@pytest.mark.parametrize(
    ("now", "then", "growth"),
    [("58,276", "68,276", (58_276.0, 68_276.0)), ("25,000", "95,000", (25_000.0, 95_000.0))],
)
def test_a_ramp_limit_tells_the_servers_step(code, now, then, growth):
    """By its code, or by its text where there is none that we know."""
    said = verdict(429, code, TOO_FAST.format(now, then), retry_after="41")
    assert (said.retry, said.reason, said.pauses_lane) == (True, "ramp limit", True)
    assert (said.feedback.cause, said.feedback.growth) == (RAMP, RampLimit("input_tokens", *growth))


def test_a_ramp_limit_without_numbers_or_time_is_one_all_the_same():
    """It passes; the pace has to guess the step."""
    said = verdict(429, "ramp_limit_exceeded", "Slow down.")
    assert (said.retry, said.feedback.cause, said.feedback.growth) == (True, RAMP, None)


def test_growth_is_read_of_a_ramp_limit_only():
    """The words alone are not enough."""
    assert verdict(500, None, TOO_FAST.format("1", "2")).feedback.growth is None


@pytest.mark.parametrize("text", [CROWDED, CROWDED_2023])
@pytest.mark.parametrize("after", [{}, {"retry_after": "2"}])
@pytest.mark.parametrize("wish", [{}, {"x_should_retry": "true"}])
def test_too_many_connections_never_pauses_the_lane(text, after, wish):
    """What headers it comes with is in no capture: tried again with any."""
    said = verdict(429, None, text, **after, **wish)
    assert (said.retry, said.reason, said.pauses_lane) == (True, "concurrency limit", False)
    assert (said.feedback.cause, said.keeps_tokens) == (CONCURRENCY, False)


def test_a_known_code_goes_before_the_text():
    """The wording can change; the code says what it is."""
    assert verdict(429, "ramp_limit_exceeded", CROWDED).feedback.cause == RAMP
    assert verdict(429, "enforced_spend_limit_reached", CROWDED).feedback.cause == ACCOUNT
    for rule in RULES:
        for beginning in rule.beginnings:
            assert verdict(429, "ramp_limit_exceeded", beginning).feedback.cause == RAMP


@pytest.mark.parametrize("status", [400, 404, 500, 529])
def test_texts_of_a_429_mean_nothing_elsewhere(status):
    """A bad request may quote them."""
    assert verdict(status, None, CROWDED).feedback == verdict(status).feedback
    assert verdict(status, None, "acceleration limit").feedback == verdict(status).feedback


# -- garbage ---------------------------------------------------------------------------------------


@given(st.integers(300, 599), st.binary(max_size=200))
def test_no_body_breaks_the_verdict(status, body):
    """A proxy's page, half a JSON, nothing: the status decides."""
    said = classify(status, {"retry-after": "1"}, body, WALL)
    assert said == classify(status, {"retry-after": "1"}, b"", WALL)
    assert said.retry is (status in RETRIED)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "details", "error_code"]), inner, max_size=4
        )
    ),
)


@given(st.integers(300, 599), JSON, st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_no_json_breaks_the_verdict(status, body, headers):
    """Anything where an object or a string is expected."""
    said = classify(status, {"retry-after": "1", **headers}, json.dumps(body).encode(), WALL)
    assert said.retry is (status in RETRIED)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error": []}', b'{"error": {"details": 5}}'])
def test_an_odd_body_has_no_error_code(body):
    """Too deep, a list, a number where an object is expected."""
    assert error_code(answers.read_json(body)) is None


ANY_ENCODING = '{"a": ["é", 1]}'


@pytest.mark.parametrize(
    "body",
    [
        *(
            ANY_ENCODING.encode(code)
            for code in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1")
        ),
        *(
            b' \r\n{"a": 1}\n',
            b'{"a": 1} {',
            b'{"a": 1}\0',
            b"1\0",
            b"",
            b" ",
            b"NaN",
            b"null",
            b"tru",
        ),
        b'"\\ud800"',
        '"\ud800"'.encode("utf-8", "surrogatepass"),
    ],
    ids=repr,
)
def test_a_body_is_read_as_json_loads_reads_it(body):
    """In any encoding, with space around it or not; what it refuses is None."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    assert repr(answers.read_json(body)) == repr(told)


def test_an_error_code_is_a_string():
    """Anything else is none."""
    assert error_code({"error": {"details": {"error_code": 7}}}) is None
    assert error_code({"error": {"details": {"error_code": "x"}}}) == "x"
