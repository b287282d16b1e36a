"""What is shown, to whom, and when."""

from __future__ import annotations

import io
import sys
import threading
from typing import Optional

import pytest

from claude_throttle import LaneState, Limits, QuotaState
from claude_throttle.cli import progress
from claude_throttle.cli.progress import Progress, Snapshot
from tests.support.waiting import wait_until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Sit down at one: to be called by the test, as pytest changes stderr after its fixtures."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "60")
    return screen


@pytest.fixture(params=["with tqdm", "without"])
def tqdm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "tqdm", None)
    return bool(request.param == "with tqdm")


def test_it_is_shown_again_and_again_and_what_is_said_stands_above(
    tqdm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    looks: list[int] = []

    def look() -> Snapshot:
        looks.append(1)
        return Snapshot(len(looks), 1000, "as it goes")

    with Progress(look) as shown:
        wait_until(lambda: "2/1000" in screen.getvalue())
        shown.say("by the way")
    text = screen.getvalue()
    assert f"{len(looks)}/1000, as it goes" in text
    assert "by the way\n" in text
    assert ("%|" in text) is tqdm


def test_a_length_nobody_knows_is_a_question_mark(
    tqdm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    with Progress(lambda: Snapshot(7, None, "words")):
        pass
    assert "7/?, words" in screen.getvalue()


def test_a_long_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    progress.PlainLine().show(Snapshot(1, 2, "x" * 500))
    assert len(screen.getvalue().replace("\r\x1b[K", "")) == 59


@pytest.mark.parametrize("quiet", [True, False])
def test_nobody_there_or_nothing_wanted_is_silence(
    quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    if not quiet:
        monkeypatch.setattr(screen, "isatty", lambda: False)
    before = threading.active_count()
    with Progress(lambda: Snapshot(1, 2, "words"), quiet=quiet):
        assert threading.active_count() == before
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "face"), [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3727, "1:02:07")]
)
def test_seconds_are_shown_as_a_clock_shows_them(seconds: float, face: str) -> None:
    assert progress.clock_face(seconds) == face


def test_what_nobody_knows_is_not_shown() -> None:
    words = progress.in_words(rate_per_minute=1234.5, waiting=7, refused=0, tokens=9999, eta=None)
    assert words == "1,234/min, 7 waiting, 0 429s, 9,999 tokens"


def lane(name: str, *learned: Optional[float]) -> LaneState:
    quotas = [
        QuotaState("requests", 60.0, None, amount, 50.0, 1.0, 1.0, "headers") for amount in learned
    ]
    tokens = QuotaState("input_tokens", 60.0, None, 9999.0, 9999.0, 1.0, 1.0, "headers")
    return LaneState(name, (*quotas, tokens), 0, 0, 0.0, "closed", None)


def test_what_was_learned_is_told_over_all_models() -> None:
    """Requests only, and only what an answer told; else nothing is said of it."""
    one, other = lane("one", 1000.0), lane("other", 200.0, None)
    assert progress.learned_rpm(Limits({"one": one, "other": other}, 10.0, 0)) == 1200
    assert progress.learned_rpm(Limits({"other": lane("other", None)}, 10.0, 0)) is None
    words = progress.in_words(
        rate_per_minute=1, waiting=0, refused=0, tokens=0, eta=None, learned=1200
    )
    assert words.endswith(", 1,200 rpm learned")
