"""What people do today: as many threads as seem right, and hope."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests


def send_all(
    url: str, bodies: Sequence[Mapping[str, Any]], threads: int, ended: Callable[[bool], None]
) -> None:
    """Post every body from a pool of threads; *ended* is told of each whether it succeeded."""
    pool = ThreadPoolExecutor(threads)
    try:
        for body in bodies:
            pool.submit(_send, url, body, ended)
        pool.shutdown()
    except BaseException:
        # Ctrl-C must not wait for the whole queue.
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _send(url: str, body: Mapping[str, Any], ended: Callable[[bool], None]) -> None:
    try:
        answer = requests.post(
            f"{url}/v1/messages",
            json=body,
            headers={"x-api-key": "demo-key", "anthropic-version": "2023-06-01"},
            timeout=60,
            # A company's proxy does not know the server on this machine.
            proxies={"no_proxy": "127.0.0.1"},
        )
    except requests.RequestException:
        ended(False)
    else:
        ended(answer.ok)
