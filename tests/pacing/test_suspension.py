"""A suspended account: one slow probe now and then."""

from __future__ import annotations

from claude_throttle.account.suspension import suspend

CAP = ("spend limit", "You have reached your API usage limits", "2026-12-01 at 00:00 UTC")


def test_the_first_probe_waits_a_minute():
    """And it says why, in the server's own words, and until when."""
    suspension = suspend(*CAP, 100.0, None)
    assert suspension[:3] == CAP
    assert suspension.seconds_until_probe(100.0) == 60.0
    assert suspension.seconds_until_probe(160.0) == suspension.seconds_until_probe(999.0) == 0.0


def test_refusals_of_calls_that_were_in_flight_change_nothing():
    """Ten left before the first was refused: they say what is known."""
    first = suspend(*CAP, 100.0, None)
    assert suspend("spend limit", "again", None, 130.0, first) is first


def test_each_refused_probe_doubles_the_wait_up_to_a_quarter_of_an_hour():
    """1, 2, 4, 8, 15, 15 minutes."""
    now, gaps, suspension = 0.0, [], None
    for _ in range(6):
        suspension = suspend(*CAP, now, suspension)
        gaps.append(suspension.seconds_until_probe(now) / 60)
        now = suspension.probe_at
        suspension = suspension.probed(now)
    assert gaps == [1, 2, 4, 8, 15, 15]


def test_one_probe_at_a_time():
    """While it is out the others wait; a probe that nobody answers is followed by another."""
    probing = suspend(*CAP, 0.0, None).probed(60.0)
    assert probing.seconds_until_probe(60.0) == probing.gap_seconds == 60.0
    assert probing.seconds_until_probe(120.0) == 0.0


def test_a_refused_probe_may_name_another_reason():
    """The credit was paid; now the key is refused."""
    probing = suspend(*CAP, 0.0, None).probed(60.0)
    now = suspend("key refused", "invalid x-api-key", None, 61.0, probing)
    assert (now.reason, now.until, now.probing) == ("key refused", None, False)
