"""Asking the fake, in a program that a test has started."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from typing import Any

if os.environ["PATCH"] == "early":
    from gevent import monkey

    monkey.patch_all()

from claude_throttle import Throttler


def ask(text: str) -> dict[str, Any]:
    """Keywords of one call."""
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "max_tokens": 9, "messages": messages, "raw": True, "timeout": 20}


def echo(answer: dict[str, Any]) -> str:
    """What the fake was asked."""
    return str(answer["content"][0]["text"]).removeprefix("echo: ")


def throttler(**settings: Any) -> Throttler:
    """One that talks to the fake."""
    url = os.environ["FAKE_URL"]
    return Throttler(api_key="sk-ant-test", base_url=url, rpm=60_000, burst=100, **settings)


def note(words: str) -> None:
    """Write a line for the test to read; in one piece."""
    with open(os.environ["NOTES"], "ab", buffering=0) as notes:
        notes.write(f"{os.getpid()} {words}\n".encode())


def note_answer(future: Future[dict[str, Any]]) -> None:
    """The same, of an answer."""
    error = future.exception()
    note(repr(error) if error is not None else echo(future.result()))


def look(future: Future[dict[str, Any]]) -> str:
    """How a copy of a call ended, by now."""
    try:
        return type(future.exception(0)).__name__
    except BaseException as error:
        return f"raised {type(error).__name__}"


def wait_until_idle(looks: int = 20) -> None:
    """Return when no other thread has moved for so many looks, 5 ms apart."""
    pause, before, still = threading.Event(), _others(), 0
    while still < looks:
        pause.wait(0.005)
        now = _others()
        before, still = now, still + 1 if now == before else 0


def _others() -> dict[int, tuple[object, int]]:
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return {thread: (frame.f_code, frame.f_lasti) for thread, frame in frames.items()}
