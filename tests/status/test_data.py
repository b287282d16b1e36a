"""What ``data()`` tells of each throttler: plain JSON, no secret; looking begins nothing."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
from collections.abc import Mapping

import pytest

import claude_throttle
from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib import status
from claude_throttle.contrib.fleet_cache import FleetCache
from claude_throttle.testing import KEY_REFUSED, OWN_SPEND_LIMIT, Reply, Stall
from tests.support import status_samples as samples
from tests.support.calls import ask
from tests.support.fleet_samples import FLEET, STORE
from tests.support.waiting import wait_until


def told(throttler, name="default"):
    """What is told of that one, by way of JSON."""
    data = json.loads(json.dumps(status.data({name: throttler}), allow_nan=False))
    (one,) = data["throttlers"]
    assert one["name"] == name
    return one


def lane_of(throttler):
    (lane,) = told(throttler)["lanes"]
    return lane


def test_the_process():
    """Whose figures they are: each worker answers for itself."""
    data = status.data({})
    assert data["pid"] == os.getpid()
    assert data["host"] == socket.gethostname()
    assert data["version"] == claude_throttle.__version__
    assert data["throttlers"] == []


@pytest.mark.usefixtures("_no_network")
def test_one_that_was_never_used_is_not_started():
    """No thread, no connection, no lane; what it was told is there."""
    before = set(threading.enumerate())
    with Throttler(api_key="sk-ant-x", rpm=50, tpd=1e6) as throttler:
        found = told(throttler)
        assert set(threading.enumerate()) <= before
    assert (found["lanes"], found["history"], found["waiting"]) == ([], [], 0)
    assert found["settings"]["quotas"] == {
        "rpm": {"amount": 50, "per": 60.0},
        "tpd": {"amount": 1e6, "per": 86_400.0},
    }
    assert found["max_concurrency"] is None, "inf is none in JSON"
    assert found["fleet"] is None


def test_one_that_shares_and_was_never_used_is_not_started(tmp_path):
    """The store is asked, the fleet is empty, and this process is no member of it."""
    before = threading.active_count()
    with Throttler(api_key="sk-ant-x", shared=f"sqlite:///{tmp_path}/quotas") as throttler:
        found = told(throttler)
        assert threading.active_count() == before
    assert (found["fleet"]["members"], found["fleet"]["error"]) == ([], None)


def test_the_figures_are_those_of_limits_and_stats(fake, throttle):
    """Quotas told and learned, totals, history."""
    throttler = throttle(fake(rpm=600, itpm=30_000), rpm=300, burst=10)
    for _ in range(3):
        throttler.call(**ask())
    found, limits, stats = told(throttler), throttler.limits(), throttler.stats()
    (lane,) = found["lanes"]
    requests = lane["quotas"][0]
    assert (requests["kind"], requests["per"]) == ("requests", 60.0)
    assert (requests["told"], requests["learned"], requests["in_force"]) == (300, 600, 300)
    assert (requests["burst"], requests["source"]) == (10, "told")
    assert requests["remaining"] == pytest.approx(limits["sonnet-5"].quotas[0].remaining, abs=3)
    assert found["stats"]["succeeded"] == stats.succeeded == 3
    assert found["stats"]["input_tokens"] == stats.input_tokens
    assert found["stats"]["latency_seconds"]["p50"] == stats.latency_seconds.p50
    assert sum(one["sent"] for one in found["history"]) == 3


def test_failures_by_class(fake, throttle):
    """And their sum without what was cancelled."""
    server = fake()
    throttler = throttle(server, max_retries=0)
    server.script(Reply(400, message="no"), Reply(404, message="no"))
    assert throttler.submit(**ask()).exception(10)
    assert throttler.submit(**ask()).exception(10)
    stats = told(throttler)["stats"]
    assert stats["failed"] == {"BadRequestError": 1, "NotFoundError": 1}
    assert stats["failed_total"] == 2


def test_paused_by_hand(fake, throttle):
    """Also before there is a lane; and calls wait."""
    throttler = throttle(fake())
    assert not told(throttler)["paused"]
    throttler.pause()
    assert told(throttler)["paused"]
    future = throttler.submit(**ask())
    found = told(throttler)
    assert (found["waiting"], found["lanes"][0]["waiting"]) == (1, 1)
    assert "paused by pause()" in str(throttler.limits())
    throttler.resume()
    future.result(10)
    assert not told(throttler)["paused"]


def test_paused_by_the_server(fake, throttle):
    """For as many seconds as it said, which go by."""
    server = fake()
    throttler = throttle(server)
    server.script(Reply(429, {"retry-after": "30"}))
    throttler.submit(**ask())
    wait_until(lambda: lane_of(throttler)["paused_seconds"])
    assert 29 < lane_of(throttler)["paused_seconds"] < 40
    assert not told(throttler)["paused"]


def test_suspended_and_why(fake, throttle):
    """The reason, the API's own words, the date, and when a call is tried."""
    server = fake()
    throttler = throttle(server)
    server.script(OWN_SPEND_LIMIT)
    assert throttler.submit(**ask()).exception(10)
    lane = lane_of(throttler)
    assert lane["suspended"] == "spend limit"
    assert lane["suspended_message"] == OWN_SPEND_LIMIT.message
    assert lane["suspended_until"].startswith("2026-12-01")
    assert 50 < lane["probe_seconds"] <= 60
    throttler.resume()
    lane = lane_of(throttler)
    assert (lane["suspended"], lane["suspended_message"], lane["probe_seconds"]) == (None,) * 3


def test_the_circuit(fake, throttle):
    """Five failures in a row open it; the next probe is told."""
    server = fake()
    throttler = throttle(server, max_retries=0)
    server.outage(reply=Reply(500))
    for _ in range(5):
        assert throttler.submit(**ask()).exception(10)
    lane = lane_of(throttler)
    assert lane["circuit"] == "open"
    assert 0 <= lane["probe_seconds"] <= 5.0


def test_in_flight_and_a_permit_of_others(fake, throttle):
    """Both hold a place."""
    server = fake()
    throttler = throttle(server, max_concurrency=4)
    server.script(Stall())
    throttler.submit(**ask())
    wait_until(lambda: told(throttler)["stats"]["in_flight"])
    with throttler.permit(model="claude-haiku-5-5"):
        found = told(throttler)
        assert (found["in_flight"], found["max_concurrency"]) == (2, 4)


@pytest.mark.usefixtures("_no_network")
def test_testing_mode_is_told():
    """Its own figures, and no word of the fleet it leaves alone."""
    with Throttler(testing=True, shared="redis://127.0.0.1:1/0") as throttler:
        throttler.call(**ask())
        found = told(throttler)
    assert (found["testing"], found["stats"]["succeeded"], found["fleet"]) == (True, 1, None)


def test_a_closed_one_is_told(fake, throttle):
    """It accepts no more."""
    throttler = throttle(fake())
    throttler.call(**ask())
    throttler.close()
    found = told(throttler)
    assert (found["closed"], found["stats"]["succeeded"]) == (True, 1)


def test_no_secret_is_in_it(fake):
    """Neither a key, nor a header, nor the password of a store, even of one that is not there."""
    server = fake()
    secrets = {"api_key": "sk-ant-hush-1", "admin_key": "sk-ant-admin-hush-2"}
    throttler = Throttler(
        **secrets,
        base_url=server.url,
        default_headers={"X-Proof": "hush-3"},
        shared="redis://:hush-4@127.0.0.1:1/0",
        proxies={"ftp": "http://me:hush-5@proxy"},
        on_store_failure="full",
    )
    throttler.call(**ask("hush-6"))
    server.script(*[KEY_REFUSED] * 3)
    assert throttler.submit(**ask("hush-7")).exception(10)
    text = json.dumps(status.data({"default": throttler}))
    throttler.close(0, cancel_pending=True)
    assert "hush" not in text
    assert "cannot be reached" in text


class Lazy(Mapping):
    """As a framework has them: made when first asked for."""

    def __init__(self, **made):
        self.made = made

    def __getitem__(self, name):
        return self.made[name]()

    def __iter__(self):
        return iter(self.made)

    def __len__(self):
        return len(self.made)


def test_one_that_cannot_be_made_is_told_in_words(fake, throttle):
    """The others are shown all the same."""

    def wrong():
        raise ConfigurationError("rpm=-1 is no rate")

    good = throttle(fake())
    bad, fine = status.data(Lazy(bad=wrong, good=lambda: good))["throttlers"]
    assert bad == {"name": "bad", "error": "rpm=-1 is no rate"}
    assert (fine["name"], fine["error"]) == ("good", None)


def test_a_bug_is_not_hidden():
    """Only what we refuse is told in words."""
    with pytest.raises(ZeroDivisionError):
        status.data(Lazy(bad=lambda: 1 // 0))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_json_has_no_number_for_is_null(number):
    """Strict readers refuse Infinity and NaN."""
    assert status.as_plain({"a": [number, (1.5, number)]}) == {"a": [None, [1.5, None]]}


def test_a_forked_child_answers_for_itself(fake, throttle):
    """Its own pid, nothing counted yet, and no wait for the parent's locks."""
    throttler = throttle(fake())
    throttler.call(**ask())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        data = status.data({"default": throttler})
        os.write(writing, json.dumps([data["pid"], data["throttlers"][0]["history"]]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reading, 1000)) == [child, []]
    os.close(reading)
    os.close(writing)
    assert told(throttler)["stats"]["succeeded"] == 1


def test_looking_while_others_call(fake, throttle):
    """Many lookers and callers at once: no error, and the last look is right."""
    throttler, errors = throttle(fake()), []
    futures = [throttler.submit(**ask(str(n), model=f"m-{n % 7}")) for n in range(200)]

    def look():
        try:
            for _ in range(50):
                told(throttler)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for future in futures:
        future.result(30)
    for thread in threads:
        thread.join()
    assert errors == []
    found = told(throttler)
    assert (found["stats"]["succeeded"], len(found["lanes"])) == (200, 7)


def names_in(value):
    """Where JSON has which names; those of counts by class are anybody's."""
    if isinstance(value, list):
        return [names_in(one) for one in value[:1]]
    if isinstance(value, dict):
        return {
            name: names_in(one)
            for name, one in value.items()
            if name not in ("failed", "quotas", "settings")
        }
    return None


def test_the_samples_for_the_browser_are_like_the_truth(fake, throttle, manual):
    """The same names at the same places: what is drawn of them will be drawn of real ones."""
    throttler = throttle(fake(rpm=100), rpm=None, burst=None, itpm=35_000)
    throttler.call(**ask())
    real = told(throttler)
    (sample,) = samples.fleet()["throttlers"]
    assert names_in(real["lanes"][0]["quotas"]) == names_in(sample["lanes"][0]["quotas"])
    fleet = FleetCache(lambda *_args, **_more: FLEET, manual).current(STORE)
    fleet["members"][0]["lanes"] = sample["fleet"]["members"][0]["lanes"]
    assert names_in({**real, "fleet": fleet}) == names_in(sample)
