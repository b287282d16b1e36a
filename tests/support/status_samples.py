"""What ``data()`` tells in states that are hard to bring about; test_data.py keeps it true."""

from __future__ import annotations

import copy

from claude_throttle import HistoryInterval, LaneState, Quantiles, QuotaState, Settings, Stats
from claude_throttle.contrib.status import as_plain, shown_settings

REQUESTS = as_plain(QuotaState("requests", 60.0, None, 100, 100, 99, 2.4, "headers"))
INPUT = as_plain(QuotaState("input_tokens", 60.0, 35_000, 40_000, 35_000, 35_000, -812.0, "told"))
DAILY = as_plain(QuotaState("requests", 86_400.0, 1000, None, 1000, 1000, 400.0, "told"))
SPACED = as_plain(QuotaState("requests", 60.0, 50, None, 50, 1, 0.4, "told"))

#: The interval with the most requests.
BUSIEST = 20

_SETTINGS = as_plain(shown_settings(Settings(api_key="sk-ant-x", itpm=35_000, rpd=1000)))

_STATS = as_plain(
    {
        **Stats(
            submitted=548,
            sent=140,
            succeeded=123,
            failed={"RateLimitError": 2, "APIConnectionError": 1, "CancelledError": 4},
            retried=12,
            rate_limited=4,
            overloaded=1,
            input_tokens=1_234_567,
            output_tokens=98_765,
            queue_wait_seconds=Quantiles(140, 0.042, 9.7, 17.2, 18.4),
            latency_seconds=Quantiles(123, 1.9, 4.2, 11.0, 31.5),
            requests_per_minute=98.4,
            elapsed_seconds=480.0,
        )._asdict(),
        "failed_total": 3,
    }
)


def _history():
    counts = [12 + n % 4 for n in range(46)]
    counts[BUSIEST], counts[30] = 25, 0
    refused = {22: 3, 31: 1}
    return [
        as_plain(HistoryInterval(10.0 * (45 - n) + 3.0, 10.0, sent, sent, 0, refused.get(n, 0)))
        for n, sent in enumerate(counts)
    ]


def _lane(name, *quotas, waiting=438, out=3):
    return as_plain(
        {**LaneState(name, quotas, waiting, out, 0.0, "closed", None)._asdict(), "quotas": quotas}
    )


def _throttler(name="default", **more):
    told = {
        "name": name,
        "error": None,
        "testing": False,
        "closed": False,
        "paused": False,
        "paused_everywhere": False,
        "settings": _SETTINGS,
        "waiting": 438,
        "in_flight": 3,
        "max_concurrency": 32,
        "store": None,
        "lanes": [
            _lane("sonnet-5", REQUESTS, DAILY, INPUT),
            _lane("haiku-5-5", SPACED, waiting=0, out=0),
            _lane("opus-5-5", waiting=0, out=0),
        ],
        "stats": _STATS,
        "history": _history(),
        "fleet": None,
        **more,
    }
    return copy.deepcopy(told)


def _data(*throttlers):
    return {"host": "web-1", "pid": 4711, "version": "0.1.0", "throttlers": list(throttlers)}


def busy(_data_of_now=None):
    """A deep queue, one quota nearly used up, one overdrawn, a few refusals."""
    return _data(_throttler())


def unused(_data_of_now=None):
    """Nothing is known yet."""
    stats = as_plain({**Stats()._asdict(), "failed_total": 0})
    none = {"waiting": 0, "in_flight": 0, "max_concurrency": None}
    return _data(_throttler(lanes=[], history=[], stats=stats, **none))


def paused(_data_of_now=None):
    """By hand, and one lane by the server."""
    one = _throttler(paused=True)
    one["lanes"][0]["paused_seconds"] = 12.3
    return _data(one)


def suspended(_data_of_now=None):
    """All lanes, for one reason."""
    one = _throttler()
    for lane in one["lanes"]:
        lane.update(
            suspended="spend limit",
            suspended_message="You have reached your specified API usage limits.",
            suspended_until="2026-12-01 at 00:00 UTC",
            probe_seconds=43.0,
        )
    return _data(one)


def circuit_open(_data_of_now=None):
    """Of one lane; another probes."""
    one = _throttler()
    one["lanes"][0].update(circuit="open", probe_seconds=2.0)
    one["lanes"][1].update(circuit="half-open", probe_seconds=0.0)
    return _data(one)


def fleet(_data_of_now=None):
    """Four processes, on hosts with long names; the store was lost to this one."""
    one = _throttler(store="redis://cache:6379/0 cannot be reached; sharing, one of 4")
    one["settings"]["on_store_failure"] = "share"
    members = [
        {
            "account": "ab12cd",
            "host": f"web-{n}.production.example.internal",
            "pid": 100 + n,
            "this": n == 2,
            "waiting": 3 * n,
            "in_flight": n,
            "lanes": {"sonnet-5": [3 * n, n]},
            "expires_seconds": 9.0,
            "paused": n == 3,
        }
        for n in range(4)
    ]
    lane = {
        "account": "ab12cd",
        "lane": "sonnet-5",
        "quotas": {"requests": {"left": 2.0, "a_minute": 100.0}},
        "paused_seconds": 0.0,
        "waiting": 18,
        "in_flight": 6,
        "suspended": None,
        "line_seconds": 0.0,
    }
    one["fleet"] = {
        "store": "redis://cache:6379/0",
        "error": None,
        "age_seconds": 0.3,
        "members": members,
        "paused": [],
        "lanes": [lane],
    }
    return _data(one)


def two(_data_of_now=None):
    """One of them in testing mode."""
    return _data(_throttler(), _throttler("batch", testing=True, closed=True, lanes=[]))


def broken(_data_of_now=None):
    """One whose settings are wrong, beside one that is fine."""
    return _data({"name": "default", "error": "rpm=-1 is no rate"}, _throttler("batch"))
