"""A run that is stopped keeps what is paid: it waits for the answers that are on the wire."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_throttle.cli import job, progress
from claude_throttle.cli.main import main
from claude_throttle.cli.progress import Bar, PlainLine, Snapshot
from claude_throttle.testing import FakeClaude, Reply, Stall
from tests.support.command import FAST, by_id, nonces, prompts, text_of
from tests.support.waiting import wait_until

LINES = ["one", "two", "three", "four", "five"]
THREE_OUT = ("--max-concurrency", "3")

Run = Callable[..., int]


class Terminal(io.StringIO):
    shows_bar = False

    def isatty(self) -> bool:
        return self.shows_bar


@pytest.fixture
def said() -> Terminal:
    """What the run says; another thread may read it meanwhile."""
    return Terminal()


@pytest.fixture
def run_lines(
    tmp_path: Path, out: Path, fake: FakeClaude, said: Terminal, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run these lines and return the exit code; *meanwhile* is done in another thread."""

    def run_them(lines: Any, *more: str, meanwhile: Callable[[], Any] = lambda: None) -> int:
        path = prompts(tmp_path / "in.jsonl", lines)
        monkeypatch.setattr(sys, "stderr", said)  # here: pytest sets it after its fixtures
        thread = threading.Thread(target=meanwhile)
        thread.start()
        try:
            return main(["run", str(path), "-o", str(out), "--base-url", fake.url, *FAST, *more])
        finally:
            thread.join()

    return run_them


def stop_when_sent(
    fake: FakeClaude, count: int, number: int = signal.SIGINT, then: Callable[[], Any] = int
) -> Callable[[], None]:
    """Send a signal when *count* requests are on the wire, then do something else."""

    def stop() -> None:
        wait_until(lambda: len(fake.arrivals) >= count)
        os.kill(os.getpid(), number)
        then()

    return stop


def wait_until_said(said: Terminal, words: str) -> None:
    wait_until(lambda: words in said.getvalue(), why=said.getvalue)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_the_first_signal_keeps_every_answer_on_the_wire_and_lets_nothing_new_leave(
    number: int, run_lines: Run, out: Path, fake: FakeClaude, said: Terminal
) -> None:
    fake.script(*[Stall()] * 3)

    def answer() -> None:
        wait_until_said(said, "waiting for 3 calls that are on the wire, 60 s at most")
        fake.release_stalled()

    stop = stop_when_sent(fake, 3, number, answer)
    assert run_lines(LINES, *THREE_OUT, meanwhile=stop) == 130
    assert "interrupted: 3 answered. Run the same command again" in said.getvalue()
    assert sorted(map(text_of, by_id(out).values())) == sorted(nonces(fake)) == sorted(LINES[:3])
    assert run_lines(LINES) == 0
    assert sorted(nonces(fake)[3:]) == sorted(LINES[3:])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_the_second_signal_cuts_and_says_that_it_may_be_billed(
    number: int, run_lines: Run, out: Path, fake: FakeClaude, said: Terminal
) -> None:
    fake.script(*[Stall()] * 3)

    def again() -> None:
        wait_until_said(said, "waiting for 3 calls")
        os.kill(os.getpid(), number)

    assert run_lines(LINES, *THREE_OUT, meanwhile=stop_when_sent(fake, 3, then=again)) == 130
    assert "0 answered, 3 cut off on the wire, which may be billed. " in said.getvalue()
    assert "what was cut off is then sent once more" in said.getvalue()
    assert out.read_bytes() == b""


def test_the_wait_has_an_end(
    run_lines: Run,
    fake: FakeClaude,
    said: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "FINISH_SECONDS", 0.1)
    fake.script(Stall())
    assert run_lines(["one"], meanwhile=stop_when_sent(fake, 1)) == 130
    assert "waiting for 1 call that is on the wire, 0.1 s at most" in said.getvalue()
    assert "1 cut off on the wire" in said.getvalue()


def test_a_timeout_of_the_call_ends_the_wait_if_it_is_shorter(
    run_lines: Run, fake: FakeClaude, said: Terminal
) -> None:
    fake.script(Stall())

    def again() -> None:
        wait_until_said(said, "waiting for")
        os.kill(os.getpid(), signal.SIGINT)

    stop = stop_when_sent(fake, 1, then=again)
    assert run_lines(["one"], "--timeout", "20", meanwhile=stop) == 130
    assert "20 s at most" in said.getvalue()


@pytest.mark.parametrize(
    ("reply", "kinds"),
    [
        (Reply(429, headers={"retry-after": "0"}), []),
        (Reply(529), []),
        (Reply(500), []),
        (Reply(400, message="no"), ["errored"]),
    ],
    ids=["429 waits", "529 waits", "500 waits", "400 is written"],
)
def test_what_is_refused_while_it_finishes_is_not_sent_again(
    reply: Reply, kinds: list[str], run_lines: Run, out: Path, said: Terminal
) -> None:
    def stop_first(*_: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        wait_until_said(said, "waiting for 1 call")
        return 0.0

    with FakeClaude(latency=stop_first) as fake:
        fake.script(reply)
        assert run_lines(["one"], "--base-url", fake.url) == 130
        assert len(fake.arrivals) == 1
    assert [result["type"] for result in by_id(out).values()] == kinds
    assert "cut off" not in said.getvalue()


def test_a_call_that_waits_for_its_retry_holds_up_no_ending(
    run_lines: Run, fake: FakeClaude, said: Terminal
) -> None:
    fake.script(Reply(429, headers={"retry-after": "600"}))
    assert run_lines(LINES, "--max-concurrency", "1", meanwhile=stop_when_sent(fake, 1)) == 130
    assert "interrupted: 0 answered. Run" in said.getvalue()
    assert len(fake.arrivals) == 1


def test_a_refused_account_keeps_the_answers_on_the_wire(
    run_lines: Run, out: Path, fake: FakeClaude, said: Terminal
) -> None:
    fake.script(Stall(), Reply(402, message="pay first"))

    def answer() -> None:
        wait_until_said(said, "waiting for ")
        fake.release_stalled()

    assert run_lines(LINES, "--max-concurrency", "2", meanwhile=answer) == 1
    assert "stopped: the API refuses this account" in said.getvalue()
    assert "1 answered" in said.getvalue()
    assert len(fake.arrivals) == 2


def test_the_bar_says_what_it_waits_for(
    run_lines: Run, fake: FakeClaude, said: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said.shows_bar = True
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    fake.script(*[Stall()] * 3)

    def answer() -> None:
        wait_until_said(said, "finishing 3: ")
        fake.release_stalled()

    stop = stop_when_sent(fake, 3, then=answer)
    assert run_lines(LINES, *THREE_OUT, meanwhile=stop) == 130
    assert "Ctrl-C cuts them off" in said.getvalue()


@pytest.mark.parametrize("width", [20, 21, 33, 40, 80, 120, 200])
@pytest.mark.parametrize("display", [Bar, PlainLine])
def test_a_terminal_of_any_width_shows_first_that_it_finishes(
    display: Callable[[], Any], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    shown = display()
    shown.show(Snapshot(123_456, 1_000_000, "Ctrl-C cuts them off", "finishing 1,234"))
    line = screen.getvalue().replace("\x1b[K", "").split("\r")[-1]
    assert line.startswith("finishing 1,234: ")
    assert len(line) <= width


def test_no_sigterm_and_no_main_thread_are_no_obstacle(
    run_lines: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_lines(["one"])))
    thread.start()
    thread.join()
    monkeypatch.delattr(signal, "SIGTERM")
    assert [*codes, run_lines(["one", "two"])] == [0, 0]
    assert len(by_id(out)) == 2


def test_a_program_that_handles_sigterm_keeps_its_handler(run_lines: Run) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    seen: list[Any] = []
    try:
        run_lines(["one"], meanwhile=lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_IGN]
