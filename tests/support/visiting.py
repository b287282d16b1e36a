"""Visitors of a web server that serves ``wsgi_app``, and what they must find."""

from __future__ import annotations

import http.client
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from claude_throttle.testing import FakeClaude, Ok, Stall
from tests.support.running import PATIENCE_SECONDS, Server
from tests.support.waiting import wait_until

VISITORS = 6
MOST_ROUNDS = 20


def hold_the_first(fake: FakeClaude) -> None:
    """Of the calls that an app makes at import and does not wait for, until judge() releases it.

    So it is still out at the fork, however slow the server is to start. Nobody may visit before
    wait_for_the_held(): a quick worker's call would be held instead.
    """
    fake.script(Ok(), Stall())


def wait_for_the_held(fake: FakeClaude) -> None:
    """Return when the fake has the call that hold_the_first() means."""
    wait_until(lambda: len(fake.arrivals) >= 2)


def visit(address: tuple[str, int], nonce: str) -> dict[str, Any]:
    """One request, on a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", f"/?{nonce}", headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        found: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    assert found["nonce"] == nonce
    return found


def visit_all(address: tuple[str, int], workers: int) -> list[dict[str, Any]]:
    """Many at a time, until all the workers have been met."""
    numbers = itertools.count()
    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(VISITORS) as visitors:
        for _ in range(MOST_ROUNDS):
            nonces = [f"nonce-{next(numbers)}" for _ in range(2 * VISITORS)]
            found += visitors.map(lambda nonce: visit(address, nonce), nonces)
            if len({one["pid"] for one in found}) == workers:
                return found
    raise AssertionError("not all of the workers answered")


def judge(found: list[dict[str, Any]], server: Server, fake: FakeClaude, forked: bool) -> None:
    """The workers had nothing in common; whoever imported the app got its own answers, once."""
    late = judge_workers(found, forked)
    fake.release_stalled()
    wait_until(lambda: {note.partition(" ")[2] for note in server.noted()} >= late)
    judge_notes(server, fake)


def judge_notes(server: Server, fake: FakeClaude) -> None:
    """What was asked at import was sent once, and answered once, where it was asked."""
    noted = [note.split() for note in server.noted() if " of " in note]
    assert [note for note in noted if note[0] != note[-1]] == []
    sent = [arrival.nonce for arrival in fake.arrivals if " of " in arrival.nonce]
    assert len(sent) == len(set(sent))
    answered = [" ".join(note[1:]) for note in noted]
    assert len(answered) == len(set(answered))


def judge_workers(found: list[dict[str, Any]], forked: bool) -> set[str]:
    """The first half of that; what was asked by whoever imported the app."""
    workers = {one["pid"] for one in found}
    for one in found:
        assert one["answers"] == [f"{one['nonce']} {n}" for n in range(4)]
    assert len({one["jitter"] for one in found}) == len(workers)
    importers = {one["importer"] for one in found}
    if forked:
        assert len(importers) == 1
        assert importers.isdisjoint(workers)
        assert {kind for one in found for kind in one["copies"]} == {"Forked"}
    else:
        assert importers == workers
    calls = found[0]["calls"]
    return {f"late {n} of {pid}" for pid in importers for n in range(calls)}


def stop_amid_a_call(address: tuple[str, int], server: Server) -> None:
    """What a visitor left to be done is done before the worker ends."""
    pid = visit(address, "leaving-late")["pid"]
    assert server.stop() == 0
    assert f"{pid} late left" in server.noted()
