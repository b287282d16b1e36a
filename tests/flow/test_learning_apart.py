"""What is learned is learned for each lane and process, and nothing of it is left behind."""

from __future__ import annotations

import gc
from concurrent.futures import wait

import pytest

from claude_throttle.testing import Garbage, Ok, Reply, Reset, Stall, Truncated
from tests.support.calls import LANE, MODEL, ask, echo
from tests.support.inside import answers_awaited, note_departures, pacer_of
from tests.support.learning import LIMITS, answered, known, nothing_told
from tests.support.programs import run
from tests.support.waiting import move_until_done, wait_until

# -- lanes -----------------------------------------------------------------------------------------


def test_models_that_share_a_limit_share_a_pace(fake, throttle, manual):
    """Sonnet 4.5 and 4.6 draw from one bucket; so do their dated names."""
    models = ["claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-4-5-20250929"]
    server = fake(clock=manual, shared_models=dict.fromkeys(models, "sonnet-4"))
    throttler = throttle(server, rpm=60, clock=manual)
    departures = note_departures(throttler, model=models[0])
    futures = [throttler.submit(**ask(model=models[n % 3])) for n in range(6)]
    assert list(throttler.limits()) == ["sonnet-4"]
    move_until_done(manual, futures, 0.25)
    assert len(departures) == 6
    assert all(b - a >= 1.0 for a, b in zip(departures, departures[1:]))


def test_what_one_model_learned_holds_for_those_it_shares_with(fake, throttle):
    """One answer for Sonnet 4.5 tells the limit of 4.6."""
    shared = dict.fromkeys(["claude-sonnet-4-5", "claude-sonnet-4-6"], "sonnet-4")
    throttler = nothing_told(throttle, fake(rpm=900, shared_models=shared))
    throttler.call(**ask(model="claude-sonnet-4-5"))
    assert known(throttler, "sonnet-4")["requests"].learned == 900
    throttler.call(**ask(model="claude-sonnet-4-6"))
    assert list(throttler.limits()) == ["sonnet-4"]


def test_lanes_override_the_table(fake, throttle):
    """By id or by pattern; what is not named stays where the table has it."""
    throttler = nothing_told(
        throttle,
        fake(),
        lanes={"claude-sonnet-4-6": "apart", "house-*": "house"},
    )
    for model in ("claude-sonnet-4-5", "claude-sonnet-4-6", "house-a", "house-b", "else"):
        throttler.call(**ask(model=model))
    assert set(throttler.limits()) == {"sonnet-4", "apart", "house", "else"}


def test_one_paused_lane_does_not_hold_up_another(fake, throttle, manual):
    """A 429 says something about one bucket only."""
    server = fake(clock=manual)
    server.script(Reply(429, {"retry-after": "30", "x-should-retry": "true"}, "rate_limit_error"))
    throttler = nothing_told(throttle, server, clock=manual)
    refused = throttler.submit(**ask())
    wait_until(lambda: throttler.stats().retried)
    others = [throttler.submit(**ask(str(n), model="claude-haiku-4-5")) for n in range(2)]
    assert answered(others) == ["0", "1"]
    limits = throttler.limits()
    assert 30 <= limits[LANE].paused_seconds <= 33
    assert limits["haiku-4-5"].paused_seconds == 0
    assert not refused.done()
    move_until_done(manual, [refused])
    assert echo(refused.result(0)) == "hello"


def test_each_lane_learns_for_itself(fake, throttle):
    """What is known of one says nothing of the other."""
    throttler = nothing_told(throttle, fake(rpm=1200))
    throttler.call(**ask())
    throttler.pause()
    future = throttler.submit(**ask(model="claude-haiku-4-5"))
    assert throttler.limits()["haiku-4-5"].quotas == ()
    throttler.resume()
    future.result(10)
    assert known(throttler, "haiku-4-5")["requests"].learned == 1200


# -- a fork ----------------------------------------------------------------------------------------


def test_a_child_forked_while_learning_starts_afresh(fake):
    """It has no lanes, learns by itself, and the parent goes on with what it knew."""
    out, _ = run(
        fake(latency=0.02, rpm=6000, itpm=1e6),
        """
throttler = Throttler(api_key="k", base_url=sys.argv[1])
bad = 0
for n in range(15):
    futures = [throttler.submit(**ask(f"parent {n}")) for _ in range(6)]
    pid = os.fork()
    if pid == 0:
        try:
            fresh = dict(throttler.limits()) == {}
            answers = [throttler.submit(**ask(f"child {n}"), timeout=20) for _ in range(4)]
            right = all(a.result()["content"][0]["text"] == f"echo: child {n}" for a in answers)
            learned = {q.kind: q.learned for q in throttler.limits()["m"].quotas}
            right = right and learned == {"requests": 6000, "input_tokens": 1e6}
            os._exit(0 if fresh and right else 4)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(5)
    for future in futures:
        bad += future.result(30)["content"][0]["text"] != f"echo: parent {n}"
    bad += os.waitpid(pid, 0)[1] != 0
bad += throttler.limits()["m"].quotas[0].learned != 6000
print("bad", bad)
""",
    )
    assert out.strip() == "bad 0"


# -- nothing is left behind ------------------------------------------------------------------------


def test_dropped_permits_are_in_flight_no_more(fake, throttle):
    """A thousand, neither settled nor closed: the next call finds the books as they should be."""
    throttler = nothing_told(throttle, fake(), max_concurrency=2)
    throttler.call(**ask())
    pacer = pacer_of(throttler)
    for _ in range(1000):
        throttler.permit(model=MODEL, input_tokens=1000, max_tokens=1000)
        gc.collect(0)
    throttler.call(**ask())
    # Another thread closes what the garbage collector found.
    wait_until(lambda: list(pacer.traffic.pending) == pytest.approx([0] * 3, abs=1e-6))
    wait_until(lambda: answers_awaited(throttler) == 0)
    wait_until(lambda: throttler.limits().in_flight == 0)


def test_dropped_permits_do_not_make_answers_look_longer(fake, throttle, manual):
    """Nobody says how a permit ended, so it tells nothing about how long answers take."""
    throttler = nothing_told(throttle, fake(clock=manual), clock=manual)
    throttler.submit(**ask()).result(10)
    pacer = pacer_of(throttler)
    permits = [throttler.permit(model=MODEL, max_tokens=1000) for _ in range(5)]
    manual.advance(600.0)
    before = pacer.latency.mean(manual.monotonic())
    permits.clear()
    gc.collect()
    manual.advance(600.0)
    assert pacer.latency.mean(manual.monotonic()) == before
    assert pacer.latency.stretch(manual.monotonic()) == 1.0


def test_whatever_becomes_of_calls_none_counts_as_in_flight_for_ever(fake, throttle):
    """Answers, refusals, lost connections, half answers, deadlines: the accounts end at zero."""
    server = fake(**LIMITS)
    throttler = nothing_told(throttle, server, max_retries=1)
    throttler.call(**ask())
    faults = [
        Ok(),
        Reply(529),
        Reply(500),
        Reply(404),
        Reset(),
        Reset(after_bytes=300),
        Garbage(),
        Truncated(),
    ]
    server.script(*faults * 2)
    futures = [throttler.submit(**ask(str(n))) for n in range(14)]
    assert not wait(futures, 30).not_done
    server.script(Stall())
    assert throttler.submit(**ask("cut", timeout=0.2)).exception(10) is not None
    server.release_stalled()
    throttler.call(**ask())
    pacer = pacer_of(throttler)
    wait_until(lambda: throttler.limits().in_flight == 0)
    assert answers_awaited(throttler) == 0
    assert list(pacer.traffic.pending) == pytest.approx([0] * 3, abs=1e-6)
