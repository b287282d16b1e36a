"""``python -m tests.bench.cold_calls KIND URL COUNT``: the calls; what they took, as JSON."""

from __future__ import annotations

import json
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.bench.work import ask, throttler

#: Seconds between two counts of the threads.
LOOK_SECONDS = 0.01


def main(kind, url, count):
    threads = KINDS[kind](url, int(count))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu, kilobytes = used.ru_utime + used.ru_stime, used.ru_maxrss
    print(json.dumps({"cpu": cpu, "threads": threads, "megabytes": kilobytes / 1024}))


def many(url, count):
    return _most_threads(url, count, rpm=6_000_000)


def paced(url, count):
    return _most_threads(url, count, rpm=1800)


def official(url, count):
    import anthropic

    with anthropic.Anthropic(api_key="sk-ant-none", base_url=url, max_retries=0) as client:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda _: client.messages.create(**ask()), range(count)))
    return threading.active_count()


def _most_threads(url, count, rpm):
    over, most = threading.Event(), [0]

    def look():
        while not over.wait(LOOK_SECONDS):
            most.append(threading.active_count())

    looking = threading.Thread(target=look)
    with throttler(url, rpm=rpm) as throttle:
        looking.start()
        for future in [throttle.submit(**ask()) for _ in range(count)]:
            future.result()
    over.set()
    looking.join()
    return max(most)


KINDS = {"many": many, "paced": paced, "official": official}

if __name__ == "__main__":
    main(*sys.argv[1:])
