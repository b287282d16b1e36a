"""CI once failed: "cannot join thread before it is started" (2026-11, Python 3.9, two senders)."""

from __future__ import annotations

import threading

from claude_throttle.transport import sdk


def test_a_thread_that_comes_while_the_import_is_being_started_waits_for_it(monkeypatch):
    """Two senders meet their first refusal at once: nobody sees a thread that never ran."""
    start = threading.Thread.start
    starting, go_on = threading.Event(), threading.Event()

    def slow_start(thread):
        if thread.name == "claude-throttle-import":
            starting.set()
            assert go_on.wait(30)
        start(thread)

    def second():
        try:
            loaded.append(sdk.load().__name__)
        except RuntimeError as error:
            loaded.append(error)

    monkeypatch.setattr(sdk, "_importer", None)
    monkeypatch.setattr(threading.Thread, "start", slow_start)
    loaded = []
    threads = [threading.Thread(target=sdk.begin_import), threading.Thread(target=second)]
    threads[0].start()
    assert starting.wait(30)
    threads[1].start()
    threads[1].join(0.2)  # the old code has failed by now; the new one waits
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert loaded == ["anthropic"]
