"""What others use to keep a rate, each as its own documents show it, and ours beside them.

Each is told all that it can be told of the server: the rate, and how much may come at once, which
in truth nobody knows. Each may send a call eleven times, by the SDK's own retries where it has none
of its own. All are imported where they are used: nothing else needs them.
"""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from tests.bench.work import let_pass, throttler

#: More than any scene has in flight while it keeps the rate.
THREADS = 40
RETRIES = 10
MINUTE = 60

#: Seconds between the looks of langchain-core's limiter. With its own 0.1, places are left unused.
LOOKS_SECONDS = 0.02

KEY = "sk-ant-not-a-key"


class Told(NamedTuple):
    """What a client may be told of the server."""

    url: str
    #: A minute.
    rpm: float
    #: That may come at once.
    burst: int


@contextmanager
def ours_untold(told):
    """Nothing told."""
    with throttler(told.url) as throttle:
        yield lambda call: throttle.submit(raw=True, **call)


@contextmanager
def ours_told(told):
    """The rate told: strictly spaced."""
    with throttler(told.url, rpm=told.rpm) as throttle:
        yield lambda call: throttle.submit(raw=True, **call)


@contextmanager
def sdk(told, retries=RETRIES):
    """The official SDK, with its own retries."""
    client = _sdk(told, retries)
    with _pool() as pool:
        yield partial(pool.submit, _sent_by(client))


@contextmanager
def langchain(told):
    """Its limiter before each call of the SDK, as its chat model does it."""
    from langchain_core.rate_limiters import InMemoryRateLimiter

    limiter = InMemoryRateLimiter(
        requests_per_second=told.rpm / MINUTE,
        check_every_n_seconds=LOOKS_SECONDS,
        max_bucket_size=told.burst,
    )
    with _behind(limiter.acquire, told) as submit:
        yield submit


@contextmanager
def pyrate(told):
    """Its GCRA before each call of the SDK."""
    from pyrate_limiter import GCRA, Limiter, Rate, StateBucket

    # A rate in milliseconds must be whole: so many a minute.
    rate = Rate(round(told.rpm), 1000 * MINUTE, burst=told.burst)
    limiter = Limiter(StateBucket([rate], algorithm=GCRA()))
    with _behind(partial(limiter.try_acquire, "claude"), told) as submit:
        yield submit


@contextmanager
def requests_ratelimiter(told):
    """Its adapter in a requests session, with urllib3's retries, which pass it by."""
    import requests
    from requests_ratelimiter import LimiterAdapter
    from urllib3.util import Retry

    retry = Retry(RETRIES, status_forcelist=(429, 529), allowed_methods=None, backoff_factor=0.5)
    # Whichever of its two ways lets as much through at once as the server does.
    second = told.rpm / MINUTE
    rate = {"per_minute": told.rpm} if told.burst > second else {"per_second": second}
    session = requests.Session()
    session.headers.update({"x-api-key": KEY, "anthropic-version": "2023-06-01"})
    session.mount("http://", LimiterAdapter(max_retries=retry, pool_maxsize=THREADS, **rate))

    def send(call):
        answer = session.post(told.url + "/v1/messages", json=call)
        answer.raise_for_status()

    with _pool() as pool:
        yield partial(pool.submit, send)


@contextmanager
def botocore(told):
    """Its adaptive mode: a bucket whose rate follows the refusals; told nothing, it cannot be."""
    import anthropic

    limiter, client = _adaptive(), _sdk(told, 0)

    def send(call):
        for attempt in range(RETRIES + 1):
            limiter.on_sending_request(None)
            try:
                client.messages.create(**call)
            except anthropic.APIStatusError as refusal:
                limiter.on_receiving_response(refused=refusal.status_code in (429, 529))
                if attempt == RETRIES:
                    raise
                # As its ExponentialBackoff: any share of the next power of two, 20 s at most.
                let_pass(min(20, random.random() * 2**attempt))
            else:
                limiter.on_receiving_response(refused=False)
                return

    with _pool() as pool:
        yield partial(pool.submit, send)


def _adaptive():
    from botocore.retries import adaptive, bucket, throttling

    class Refused:
        def is_throttling_error(self, refused):
            return refused

    clock = bucket.Clock()
    return adaptive.ClientRateLimiter(
        throttling.CubicCalculator(starting_max_rate=0, start_time=clock.current_time()),
        adaptive.RateClocker(clock),
        bucket.TokenBucket(max_rate=1, clock=clock),
        Refused(),
        clock,
    )


@contextmanager
def litellm(told):
    """Its Router, by usage; without cooldowns, which would refuse the whole minute's rest."""
    # Else it fetches its price list from the network.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm as library

    library.suppress_debug_info = True
    deployment = {
        "model": "anthropic/claude-sonnet-5",
        "api_key": KEY,
        "api_base": told.url,
        "rpm": round(told.rpm),
    }
    router = library.Router(
        model_list=[{"model_name": "claude", "litellm_params": deployment}],
        routing_strategy="usage-based-routing-v2",
        num_retries=RETRIES,
        disable_cooldowns=True,
    )

    def send(call):
        router.completion(**{**call, "model": "claude"})

    with _pool() as pool:
        yield partial(pool.submit, send)


@contextmanager
def _behind(wait, told):
    """The SDK behind a limiter, which its retries pass by."""
    send = _sent_by(_sdk(told, RETRIES))

    def paced(call):
        wait()
        send(call)

    with _pool() as pool:
        yield partial(pool.submit, paced)


def _sdk(told, retries):
    import anthropic

    return anthropic.Anthropic(api_key=KEY, base_url=told.url, max_retries=retries)


def _sent_by(client):
    return lambda call: client.messages.create(**call)


@contextmanager
def _pool():
    pool = ThreadPoolExecutor(THREADS)
    _start(pool)
    try:
        yield pool
    finally:
        # Its threads may wait for very long: the process ends without them.
        pool.shutdown(wait=False, cancel_futures=True)


def _start(pool):
    # Before anything is measured.
    together = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        pool.submit(together.wait)
    together.wait()


#: What it is called, what it comes with, and how it is used.
CLIENTS = (
    ("nothing told", "claude_throttle", ours_untold),
    ("rate told", "claude_throttle", ours_told),
    ("2 retries", "anthropic", partial(sdk, retries=2)),
    ("10 retries", "anthropic", sdk),
    ("InMemoryRateLimiter", "langchain-core", langchain),
    ("adapter", "requests-ratelimiter", requests_ratelimiter),
    ("GCRA", "pyrate-limiter", pyrate),
    ("adaptive", "botocore", botocore),
    ("Router", "litellm", litellm),
)
