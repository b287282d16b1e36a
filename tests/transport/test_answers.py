"""What an answer says: when to come back, and a message or what is none."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.pacing.backoff import backoff
from claude_throttle.errors import BrokenAnswer
from claude_throttle.transport.verdicts import read_message, read_usage, retry_after

WALL = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc).timestamp()


def after(**headers):
    fields = CaseInsensitiveDict({k.replace("_", "-"): v for k, v in headers.items()})
    return retry_after(fields, WALL)


# -- retry-after -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("7", 7.0), ("0.5", 0.5), (" 12 ", 12.0), ("1e2", 100.0), ("86400", 86400.0)],
)
def test_seconds_whole_or_fractional(text, seconds):
    """As the API sends them, and as proxies do."""
    assert after(retry_after=text) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("1500", 1.5), ("0", 0.0), ("250.5", 0.2505)])
def test_milliseconds_go_before_seconds(text, seconds):
    """The SDK reads them first."""
    assert after(retry_after_ms=text, retry_after="99") == seconds


GARBAGE = ["", "soon", "-1", "-0.5", "nan", "inf", "-inf", "1,5", "0x10", "3 seconds", "\x00", "é"]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_says_nothing(text):
    """It neither breaks the call nor makes it wait for ever."""
    assert after(retry_after=text) is None
    assert after(retry_after_ms=text, retry_after=text) is None


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_in_milliseconds_leaves_the_seconds(text):
    """The next spelling is read then."""
    assert after(retry_after_ms=text, retry_after="4") == 4.0


def test_without_the_header_nothing_is_known():
    """None, not zero."""
    assert after() is None


@given(st.integers(-86_400, 86_400))
def test_a_date_is_so_far_away(seconds):
    """One in the past is now, never a negative wait."""
    date = datetime.fromtimestamp(WALL + seconds, timezone.utc)
    assert after(retry_after=format_datetime(date, usegmt=True)) == max(0.0, seconds)


@pytest.mark.parametrize(
    "text",
    [
        "Sat, 99 Nov 2026 12:00:00 GMT",
        "Sat, 21 Nov 99999999 12:00:00 GMT",
        "Sat, 21 Nov 2026 25:61:00 GMT",
        "Sat, 21 Nov 2026",
        "21",
        "Sat, 21 Nov 2026 12:00:00 +99999999999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
    ],
)
def test_a_date_that_is_none_breaks_nothing(text):
    """Whatever the parser makes of it: a finite number of seconds, or nothing."""
    seconds = after(retry_after=text)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@given(st.text(max_size=40))
def test_no_text_makes_a_wait_that_is_none(text):
    """Always None, or a finite number of seconds from zero."""
    for seconds in (after(retry_after=text), after(retry_after_ms=text)):
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@given(st.integers(1, 10_000))
def test_backoff_doubles_up_to_eight_seconds(failures):
    """Between half the ceiling and the ceiling, however often it failed."""
    ceiling = min(8.0, 0.5 * 2 ** min(failures - 1, 20))
    assert ceiling / 2 <= backoff(failures) <= ceiling


def test_backoff_has_jitter():
    """Or all would come back at once."""
    assert len({backoff(3) for _ in range(20)}) > 1


# -- messages --------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_garbage_is_an_error_never_half_a_message(body):
    """It says so, and how to find the request."""
    with pytest.raises(BrokenAnswer, match="req_9") as caught:
        read_message(body, "req_9")
    assert (caught.value.status, caught.value.request_id) == (200, "req_9")


@pytest.mark.parametrize(
    "answer",
    [
        [],
        5,
        None,
        "x",
        {},
        {"type": "message"},
        {"type": "error", "content": []},
        {"type": "message", "content": "text"},
        {"type": "message", "content": None},
    ],
)
def test_json_that_is_no_message_is_an_error(answer):
    """A page of a portal, an error with status 200, a message without content."""
    with pytest.raises(BrokenAnswer, match="not a"):
        read_message(json.dumps(answer).encode(), None)


@pytest.mark.parametrize("cut", [1, 10, 30, -1])
def test_a_message_cut_short_is_an_error(cut):
    """Wherever it was cut."""
    whole = json.dumps({"type": "message", "content": [{"type": "text", "text": "hi"}]}).encode()
    assert read_message(whole, None)["content"]
    with pytest.raises(BrokenAnswer, match="may be billed"):
        read_message(whole[:cut], None)


def test_a_body_too_deep_to_read_is_an_error():
    """Not a crash of the sender."""
    with pytest.raises(BrokenAnswer):
        read_message(b'{"type": "message", "content": ' + b"[" * 100_000, None)


def test_usage_is_read_with_the_cache_apart():
    """Each kind costs something else."""
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "service_tier": "standard",
    }
    assert read_usage({"usage": usage}) == Usage(1, 2, 3, 4)


@pytest.mark.parametrize("odd", [None, "5", -1, 1.5, [], {}, 10**400])
def test_an_odd_count_counts_as_nothing(odd):
    """null is what the API sends for no cache."""
    assert read_usage({"usage": {"input_tokens": odd, "output_tokens": 2}}) == Usage(0, 2)


@pytest.mark.parametrize("message", [{}, {"usage": None}, {"usage": []}, {"usage": 5}])
def test_without_usage_nothing_is_known(message):
    """None, not zero: the estimate stays booked."""
    assert read_usage(message) is None
