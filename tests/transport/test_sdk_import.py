"""How and when the SDK is imported. Each in an interpreter of its own."""

from __future__ import annotations

from claude_throttle.transport import sdk
from tests.support.programs import run_alone

BEGIN = "import sys, threading; from claude_throttle.transport import sdk; "


def test_our_import_does_not_bring_the_sdk_along():
    """It takes 0.5 to 1.9 s; nobody who only imports us should pay for it."""
    code = "import sys, claude_throttle; print('anthropic' in sys.modules)"
    assert run_alone(code) == ["False"]


def test_the_import_runs_in_one_background_thread():
    """However often it is begun; load() waits for it."""
    code = BEGIN + (
        "sdk.begin_import(); first = sdk._importer; sdk.begin_import()\n"
        "print(sdk._importer is first, first is not threading.main_thread(), first.daemon)\n"
        "sdk.load(); print('anthropic.types' in sys.modules)"
    )
    assert run_alone(code) == ["True", "True", "True", "True"]


FORK = """
import os
import warnings
warnings.simplefilter("ignore")  # 3.12 and later warn of any fork beside a thread
BEFORE
pid = os.fork()
if pid == 0:
    # What fork found: a whole module, or half of one whose locks nobody here will release.
    import logging, signal
    signal.alarm(60)
    whole = hasattr(sys.modules.get("anthropic"), "Anthropic")
    CHILD
    logging.getLogger("x").warning("a lock of logging is free")
    sys.stdout.write(f"child {whole}\\n")
    sys.stdout.flush()
    os._exit(0)
print("status", os.waitpid(pid, 0)[1])
"""


def test_a_fork_during_the_import_waits_for_it():
    """A child forked in its midst would hang at its own first import (5 of 5 tries)."""
    code = FORK.replace("BEFORE", "sdk.begin_import()").replace("CHILD", "sdk.load().Anthropic")
    assert run_alone(BEGIN + code) == ["child", "True", "status", "0"]


def test_a_fork_without_an_import_waits_for_nothing():
    """The child finds nothing of it, and may import it by itself."""
    code = FORK.replace("BEFORE", "").replace("CHILD", "sdk._wait_for_import()")
    assert run_alone(BEGIN + code) == ["child", "False", "status", "0"]


def test_the_importing_thread_itself_may_fork():
    """It does not wait for itself: some library may start a process while it is imported."""
    code = BEGIN + (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "def fork():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(0)\n"
        "    print('status', os.waitpid(pid, 0)[1])\n"
        "sdk._import = fork\n"
        "sdk.begin_import(); sdk._importer.join(30); print(sdk._importer.is_alive())"
    )
    assert run_alone(code) == ["status", "0", "False"]


def test_at_the_end_of_the_interpreter_no_thread_can_be_started(monkeypatch):
    """begin_import() gives up quietly; load() will import in its own thread."""

    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(sdk, "_importer", None)
    monkeypatch.setattr(sdk.threading.Thread, "start", refuse)
    sdk.begin_import()
    assert sdk._importer is None
    assert sdk.load().__name__ == "anthropic"
