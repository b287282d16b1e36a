"""What only a process of its own can show: kills, signals, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import FakeClaude
from tests.support.command import FAST, Start, by_id, nonces, prompts, text_of
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

TEXTS = [f"prompt {number}" for number in range(60)]


def whole_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_after_a_kill_only_what_is_missing_is_sent(
    tmp_path: Path, start: Start, fake: FakeClaude
) -> None:
    out = tmp_path / "out"
    arguments = ["run", prompts(tmp_path / "in", TEXTS), "-o", out, "--base-url", fake.url, *FAST]
    first = start(*arguments, "--rpm", "1800")
    wait_until(lambda: whole_lines(out) >= 10)
    first.kill()
    first.wait()
    kept = {text_of(result) for result in by_id(out).values()}
    sent = len(fake.arrivals)
    second = start(*arguments)
    assert second.wait(timeout=20) == 0
    assert sorted(nonces(fake)[sent:]) == sorted(set(TEXTS) - kept)
    assert sorted(text_of(result) for result in by_id(out).values()) == sorted(TEXTS)


def test_a_second_ctrl_c_ends_it_at_once_though_answers_are_long_in_coming(
    tmp_path: Path, start: Start
) -> None:
    with FakeClaude(latency=60) as fake:
        arguments = ["run", prompts(tmp_path / "in", TEXTS), "-o", tmp_path / "out"]
        process = start(*arguments, "--base-url", fake.url, *FAST)
        wait_until(lambda: len(fake.arrivals) >= 5)
        begun = SYSTEM_CLOCK.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr
        said = process.stderr.readline()
        assert said.startswith(b"nothing more is sent; waiting for"), "no log line before it"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=40)
        assert process.returncode == 130
        assert SYSTEM_CLOCK.monotonic() - begun < 20  # an answer takes 60
        assert b"interrupted: 0 answered" in said
        assert b"Traceback" not in said


def test_pipes_carry_answers_while_questions_still_come(start: Start, fake: FakeClaude) -> None:
    process = start("run", "-", "--base-url", fake.url, *FAST)
    assert process.stdin
    assert process.stdout
    for text in ("one", "two"):
        process.stdin.write(json.dumps(text).encode() + b"\n")
        process.stdin.flush()
        assert text_of(json.loads(process.stdout.readline())["result"]) == text
    rest, said = process.communicate(timeout=40)
    assert process.returncode == 0
    assert rest == b""
    assert said.startswith(b"2 answered;")
    assert b"\x1b" not in said


@pytest.mark.parametrize("ending", ["ctrl-c", only_thorough("no more readers")])
def test_a_pipe_that_nothing_comes_through_holds_up_no_ending(
    ending: str, start: Start, fake: FakeClaude
) -> None:
    process = start("run", "-", "--base-url", fake.url, *FAST)
    assert process.stdin
    assert process.stdout
    if ending == "ctrl-c":
        process.stdin.write(b'"one"\n')
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
    else:
        process.stdout.close()
        process.stdin.write(b'"one"\n')
        process.stdin.flush()
    assert process.wait(timeout=10) == (130 if ending == "ctrl-c" else 1)
    assert process.stderr
    said = process.stderr.read()
    assert said.startswith(b"interrupted: 1 answered" if ending == "ctrl-c" else b"")
    assert b"Fatal" not in said
    assert b"Traceback" not in said


def test_a_reader_that_goes_away_ends_it_quietly(
    tmp_path: Path, start: Start, fake: FakeClaude
) -> None:
    path = prompts(tmp_path / "in", [str(number) for number in range(2000)])
    process = start("run", path, "--base-url", fake.url, *FAST)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=40)
    assert process.returncode == 1
    assert said == b""
    assert len(fake.arrivals) < 2000


def test_two_runs_at_once_over_one_output_are_refused(
    tmp_path: Path, start: Start, fake: FakeClaude
) -> None:
    out = tmp_path / "out"
    arguments = ["run", prompts(tmp_path / "in", TEXTS), "-o", out, "--base-url", fake.url, *FAST]
    start(*arguments, "--rpm", "60")
    wait_until(lambda: whole_lines(out) >= 1)
    second = start(*arguments)
    _, said = second.communicate(timeout=40)
    assert second.returncode == 2
    assert b"another run is writing" in said


@pytest.mark.parametrize("tqdm", [True, only_thorough(False)])
def test_a_person_at_a_terminal_sees_how_far_it_is(
    tqdm: bool, tmp_path: Path, start: Start, fake: FakeClaude
) -> None:
    path = prompts(tmp_path / "in", [*TEXTS[:9], {"prompt": 1}])
    without = "" if tqdm else "sys.modules['tqdm'] = None;"
    code = f"import sys; {without} from claude_throttle.cli.main import main; sys.exit(main())"
    ours, theirs = pty.openpty()
    arguments = ["run", path, "-o", tmp_path / "out", "--base-url", fake.url, *FAST]
    process = start(*arguments, "--rpm", "600", code=code, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    said = read_terminal(ours)
    assert process.wait(timeout=20) == 1
    assert "10/10" in said
    assert "0 429s" in said
    assert "ETA 0:0" in said
    assert "line 10: prompt must be" in said
    assert ("█" in said or "#" in said) is tqdm


def test_answers_on_a_terminal_have_it_to_themselves(
    tmp_path: Path, start: Start, fake: FakeClaude
) -> None:
    """No bar between the lines: every one of them is whole, and the summary comes last."""
    path = prompts(tmp_path / "in", TEXTS[:9])
    ours, theirs = pty.openpty()
    arguments = ["run", path, "--base-url", fake.url, *FAST, "--rpm", "600"]
    process = start(*arguments, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    *answers, summary = read_terminal(ours).splitlines()
    assert process.wait(timeout=20) == 0
    assert sorted(text_of(json.loads(line)["result"]) for line in answers) == TEXTS[:9]
    assert summary.startswith("9 answered;")


def read_terminal(ours: int) -> str:
    """Everything until the other side is closed, which Linux tells as an error."""
    pieces = []
    try:
        while True:
            pieces.append(os.read(ours, 65536))
    except OSError:
        return b"".join(pieces).decode()
    finally:
        os.close(ours)
