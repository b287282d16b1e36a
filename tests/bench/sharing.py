"""One quota, many processes: by the fake API's own log, over all of them."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager

from tests.bench.crew import Crew, failed
from tests.bench.figures import Figure, at_most, none_of, scaled
from tests.bench.logs import let_in, over_least, refused
from tests.bench.server import Server
from tests.bench.work import let_pass
from tests.support.redis_server import RedisServer

RPM = 1200


@contextmanager
def redis():
    """A server of our own."""
    server = RedisServer()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def sqlite():
    """The address of a file of our own."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite://{folder}/quota.db"


def eight_on_redis(share):
    """1,000 calls at a told 1,200 RPM."""
    with redis() as store:
        return _shared(8, store.url, scaled(1000, share, least=20), 1.03, 0, rpm=RPM)


def four_on_sqlite(share):
    """The same over one file."""
    with sqlite() as url:
        return _shared(4, url, scaled(1000, share, least=20), 1.04, 0, rpm=RPM)


def four_untold(share):
    """Nothing told, Redis."""
    with redis() as store:
        return _shared(4, store.url, scaled(1000, share, least=20), 1.10, 4)


def skewed(share):
    """Clocks 30 s apart."""
    with redis() as store:
        return _shared(
            4, store.url, scaled(400, share, least=20), 1.04, 0, skews=(0, 30, 0, -30), rpm=RPM
        )


def _shared(count, url, calls, most, most_refused, skews=(), **told):
    if calls < 10 * count:  # the benchmark itself is tried: processes take long to start
        count, skews = 2, skews[:2]
    with Server(rpm=RPM, burst=20, latency=0.2) as server:
        options = {"url": server.url, "shared": url, "calls": calls // count, **told}
        with Crew(count, skews=skews, **options) as crew:
            crew.go()
            results = crew.results()
        log = server.arrivals()
    ratio, seconds = over_least(let_in(log), RPM)
    return [
        at_most("time / least", ratio, most, note=f"({seconds:.2f} s)"),
        at_most("429s", len(refused(log)), most_refused, "{:.0f}"),
        none_of("failed, or another's answer", _wrong(results)),
    ]


def _wrong(results):
    return sum(failed(results).values()) + sum(result["others_answers"] for result in results)


def frozen(share):
    """Redis stands still for 10 s in the middle."""
    brief = max(0.1, min(1.0, share))  # of the seconds before, and after
    with redis() as store, Server(rpm=RPM, burst=30, latency=0.2) as server:
        calls = round(RPM / 60 * (10 * share + 15 * brief) / 4)
        with Crew(4, url=server.url, shared=store.url, calls=calls, rpm=RPM) as crew:
            crew.go()
            let_pass(5 * brief)
            store.freeze()
            let_pass(10 * share)
            store.wake()
            back = time.monotonic()
            results = crew.results()
        log = server.arrivals()
    per_second = RPM / 60
    pace = sum(back + 2 <= a.at < back + 4 for a in let_in(log)) / 2 / per_second
    slowest = max(result["longest_submit"] for result in results)
    return [
        at_most("longest submit", slowest, 1.0, "{:.3f} s"),
        at_most("in the fullest second", _fullest(log), per_second * 1.05 + 4, "{:.0f}"),
        Figure("pace 2 to 4 s after", "≥ 0.95", f"{pace:.3f}", pace >= 0.95),
        none_of("failed, or another's answer", _wrong(results)),
    ]


def _fullest(log, seconds=1.0):
    at = [arrival.at for arrival in log]
    return max(sum(begin <= other < begin + seconds for other in at) for begin in at)


def restarted(share):
    """Redis comes back empty, after a whole-minute burst has left that nobody was told of."""
    calls = scaled(800, share, least=40)
    with redis() as store, Server(rpm=600, burst=0.7 * calls, latency=0.2) as server:
        with Crew(4, url=server.url, shared=store.url, calls=calls // 4) as crew:
            crew.go()
            while len(let_in(server.arrivals())) < 0.75 * calls:
                let_pass(0.1)
            store.kill()
            store.start()
            results = crew.results()
        log = server.arrivals()
    # A burst that leaves twice is refused whole.
    few = 0.05 * 0.7 * calls
    return [
        at_most("429s, of the burst's 5 %", len(refused(log)), few, "{:.0f}"),
        none_of("failed, or another's answer", _wrong(results)),
    ]


def killed(share):
    """kill -9 of one of four that hold 8 permits between them."""
    brief = max(0.1, min(1.0, share))
    lease, before, watched = max(0.5, 15.0 * share), 3 * brief, 4 * brief
    with redis() as store, Server(rpm=1e6, latency=0.5) as server:
        options = {"max_concurrency": 8, "store_lease": lease, "rpm": 1e5}
        # 8 at once of half a second each are 16 a second.
        calls = round(16 * (before + lease + watched + 5 * brief) / 4)
        with Crew(4, url=server.url, shared=store.url, calls=calls, **options) as crew:
            crew.go()
            let_pass(before)
            crew.members[0].kill()
            over = time.monotonic() + lease
            results = crew.results()
        log = server.arrivals()
    most = max(arrival.in_flight for arrival in log)
    pace = sum(over <= a.at < over + watched for a in let_in(log)) / watched / 16
    return [
        at_most("in flight at once", most, 8, "{:.0f}"),
        Figure("pace when the lease is over", "≥ 0.95", f"{pace:.3f}", pace >= 0.95),
        none_of("failed, or another's answer", _wrong(results)),
    ]
