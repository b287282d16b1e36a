"""Others beside the throttler: the same work, the same kind of server, in the same run.

*Used* is the share of the server's quota that became answers: the time it would have taken to
answer as many, its burst and the last answer included, over the time until the last call was
answered or had failed. Somebody who fails most calls may use a quota well: look at both.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import wait
from typing import NamedTuple, Optional

from tests.bench.figures import scaled
from tests.bench.logs import let_in, refused
from tests.bench.pace import INPUT_SPREAD
from tests.bench.peer_clients import CLIENTS, Told
from tests.bench.server import Server
from tests.bench.work import ask, between

#: Seconds; strict spacing needs 75 in the longest scene. What is not done then has failed.
PATIENCE = 90

#: Seconds that imports may take, and the end.
STARTING_SECONDS = 30

LATENCY_SECONDS = 0.2


class Scene(NamedTuple):
    """A kind of server, and how many calls it gets."""

    what: str
    count: int
    rpm: float
    burst: int
    itpm: Optional[float] = None
    itpm_burst: Optional[float] = None


SCENES = (
    Scene("1,200 RPM, burst 20, 500 calls", 500, 1200, 20),
    Scene("480 RPM, burst 480, 600 calls", 600, 480, 480),
    # All but ours know of requests only, and are told the truth about those.
    Scene("600,000 ITPM, burst 20,000, 200 calls", 200, 2400, 40, 600_000, 20_000),
)

EVERYBODY = range(len(CLIENTS))

HEAD = ("server", "client", "used", "429s", "failed", "seconds")


def side_by_side(share, places=EVERYBODY):
    """The table, one line for each scene and client: each client in all scenes at once."""
    lines = [[] for _ in SCENES]
    for place in places:
        print(f"{_name(place)} …", file=sys.stderr, flush=True)
        for scene, found in zip(lines, _in_processes(place, share)):
            scene.append(found)
    return [HEAD, *(line for scene in lines for line in scene)]


def _in_processes(place, share):
    """In fresh processes, one for each scene: some never let go of their threads."""
    context = multiprocessing.get_context("spawn")
    running = []
    for scene in SCENES:
        ear, mouth = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(place, scene, share, mouth))
        process.start()
        mouth.close()
        running.append((scene, ear, process))
    for scene, ear, process in running:
        yield (scene.what, _name(place), *_feedback(ear))
        process.terminate()
        process.join()


def _feedback(ear):
    # One that hangs must not keep the rest from being measured.
    if not ear.poll(PATIENCE + STARTING_SECONDS):
        return ("hung", "", "", "")
    try:
        return ear.recv()
    except EOFError:
        return ("died", "", "", "")


def _name(place):
    what, package, _ = CLIENTS[place]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return " ".join(filter(None, (package, version, what)))


def _report(place, scene, share, mouth):
    try:
        found = _measured(CLIENTS[place][2], scene, share)
    except ImportError:
        found = ("not installed", "", "", "")
    except Exception as problem:
        found = (repr(problem), "", "", "")
    mouth.send(found)
    mouth.close()
    sys.stderr.flush()
    # Whatever threads it has left.
    os._exit(0)


def _measured(client, scene, share):
    calls = _calls(scene, scaled(scene.count, share))
    limits = {"rpm": scene.rpm, "itpm": scene.itpm, "itpm_burst": scene.itpm_burst}
    with Server(burst=scene.burst, latency=LATENCY_SECONDS, **limits) as server:
        with client(Told(server.url, scene.rpm, scene.burst)) as submit:
            began = time.monotonic()
            futures = [submit(call) for call in calls]
            done, late = wait(futures, PATIENCE)
            seconds = time.monotonic() - began
            log = server.arrivals()
            failed = len(late) + sum(future.exception() is not None for future in done)
            return _shown(scene, log, failed, seconds)


def _calls(scene, count):
    if scene.itpm is None:
        return [ask() for _ in range(count)]
    source = random.Random(4)
    return [ask("x" * 4 * between(source, *INPUT_SPREAD)) for _ in range(count)]


def _shown(scene, log, failed, seconds):
    used = _least_seconds(scene, let_in(log)) / seconds
    return (f"{used:.0%}", str(len(refused(log))), str(failed), f"{seconds:.1f}")


def _least_seconds(scene, admitted):
    """That the server would have needed for them, from a full bucket."""
    least = (len(admitted) - scene.burst) * 60 / scene.rpm
    if scene.itpm is not None:
        tokens = sum(arrival.input_tokens for arrival in admitted)
        least = max(least, (tokens - scene.itpm_burst) * 60 / scene.itpm)
    return max(0.0, least) + LATENCY_SECONDS
