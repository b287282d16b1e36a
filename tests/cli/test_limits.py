"""``claude-throttle limits``: what is printed, where, and what the exit code says."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from claude_throttle.cli import limits
from claude_throttle.cli.main import main
from claude_throttle.testing import FakeClaude, Reply
from tests.support.command import Start
from tests.support.waiting import wait_until

Ask = Callable[..., "tuple[int, str, list[str]]"]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run it; returns exit code, stdout, and the lines of stderr."""

    def ask_them(*arguments: str) -> tuple[int, str, list[str]]:
        code = main(["limits", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return ask_them


def test_one_cheap_call_tells_the_limits(ask: Ask) -> None:
    """One token of output, from the cheapest model; the table is on stdout, stderr is silent."""
    with FakeClaude(rpm=50, itpm=30_000, otpm=8_000, output_tokens=500) as fake:
        code, out, said = ask("--base-url", fake.url)
        (call,) = fake.arrivals
    assert (code, said) == (0, [])
    assert (call.model, call.output_tokens) == (limits.CHEAPEST_MODEL, 1)
    assert "haiku-5-5:" in out
    for row, amount in (("requests", "50"), ("input tokens", "30,000"), ("output tokens", "8,000")):
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {row} a minute"))
        assert line.replace(f"{row} a minute", "").split()[:3] == ["-", amount, amount]
        assert line.endswith("headers")


def test_each_model_is_asked_once(ask: Ask) -> None:
    """--model is repeatable; a repetition costs nothing."""
    with FakeClaude(rpm=50) as fake:
        models = ["claude-opus-5", "claude-sonnet-5", "claude-opus-5"]
        code, out, _ = ask("--base-url", fake.url, *(f"--model={model}" for model in models))
        assert sorted(a.model for a in fake.arrivals) == ["claude-opus-5", "claude-sonnet-5"]
    assert code == 0
    assert "opus-5:" in out
    assert "sonnet-5:" in out


def test_the_fake_needs_no_key(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has the limits of a real account."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    code, out, said = ask("--fake")
    assert (code, said) == (0, [])
    for amount in ("1,000", "2,000,000", "400,000"):
        assert amount in out


def test_json_has_every_figure_by_its_name(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict JSON: what has no bound is null, not Infinity."""
    monkeypatch.setenv("CLAUDE_THROTTLE_RPM", "20")
    with FakeClaude(rpm=50) as fake:
        code, out, said = ask("--base-url", fake.url, "--json")
    assert (code, said) == (0, [])
    told = json.loads(out, parse_constant=pytest.fail)
    assert told["max_concurrency"] is None
    lane = told["lanes"]["haiku-5-5"]
    assert (lane["circuit"], lane["suspended"]) == ("closed", None)
    (quota,) = lane["quotas"]
    assert (quota["kind"], quota["per"], quota["source"]) == ("requests", 60.0, "told")
    assert (quota["told"], quota["learned"], quota["in_force"]) == (20.0, 50.0, 20.0)


def test_without_a_key_it_says_how_to_go_on(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words for a prompt: the variable, and the way without."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    code, out, said = ask()
    assert (code, out) == (2, "")
    (line,) = said
    assert "ANTHROPIC_API_KEY" in line
    assert "--fake" in line


def test_for_a_clouds_platform_it_says_whom_it_asks(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key would go to the Claude API, which knows none of its models."""
    monkeypatch.setenv("CLAUDE_THROTTLE_PLATFORM", "bedrock")
    code, out, said = ask()
    assert (code, out) == (2, "")
    assert "CLAUDE_THROTTLE_PLATFORM=bedrock: this command speaks to the Claude API" in said[0]
    assert "API key" not in said[0]


def test_in_testing_mode_it_asks_nobody(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Canned answers would look like real ones; the fake is asked all the same."""
    monkeypatch.setenv("CLAUDE_THROTTLE_TESTING", "1")
    code, out, said = ask()
    assert (code, out) == (2, "")
    assert "CLAUDE_THROTTLE_TESTING is set" in said[-1]
    code, out, said = ask("--fake")
    assert (code, said) == (0, [])
    assert "1,000" in out


def test_a_refused_key_is_one_line(ask: Ask) -> None:
    """However many models were asked: it is one key."""
    with FakeClaude() as fake:
        fake.outage(reply=Reply(401, message="invalid x-api-key sk-ant-test-key"))
        code, out, (line,) = ask("--base-url", fake.url)
    assert (code, out) == (1, "")
    assert line.startswith("claude-throttle limits: the API refuses this key: invalid x-api-key")
    assert "check ANTHROPIC_API_KEY" in line
    assert "test-key" not in line


def test_a_suspended_account_is_one_line_with_its_date(ask: Ask) -> None:
    """In the API's words, asked for two models."""
    with FakeClaude(spend_cap_after=0) as fake:
        code, _, said = ask("--base-url", fake.url, "--model", "a", "--model", "b")
    assert code == 1
    assert said
    assert all("refuses this account" in line for line in said)
    assert all("You will regain access on" in line for line in said)
    assert not any("resume()" in line for line in said)


def test_a_server_that_is_not_there_is_one_line(ask: Ask, fake: FakeClaude) -> None:
    """One reason for all models, with the address that was tried."""
    fake.stop()
    code, out, (line,) = ask("--base-url", fake.url, "--model", "a", "--model", "b")
    assert (code, out) == (1, "")
    assert line.startswith(f"claude-throttle limits: {fake.url}: no connection after 3 attempts")


def test_an_answer_that_does_not_come_is_not_waited_for(ask: Ask) -> None:
    """--timeout bounds it all."""
    with FakeClaude(latency=60) as fake:
        code, out, (line,) = ask("--base-url", fake.url, "--timeout", "0.3")
    assert (code, out) == (1, "")
    assert "no answer in time" in line


def test_one_model_that_is_refused_hides_no_other(ask: Ask) -> None:
    """Its name is in the reason; the others' limits are printed."""
    with FakeClaude(rpm=50) as fake:
        fake.script(Reply(404, message="model: gone"))
        code, out, (line,) = ask("--base-url", fake.url, "--model", "x", "--model", "y")
        refused = next(a.model for a in reversed(fake.arrivals) if a.status == 404)
    assert code == 1
    assert line == f"claude-throttle limits: {refused}: not_found_error (404): model: gone"
    assert "requests a minute" in out


def test_an_answer_without_limits_is_no_success(ask: Ask, fake: FakeClaude) -> None:
    """A gateway may drop the headers; a script must not take an empty answer for limits."""
    code, out, (line,) = ask("--base-url", fake.url)
    assert (code, out) == (1, "")
    assert limits.NO_HEADERS in line
    code, out, _ = ask("--base-url", fake.url, "--json")
    assert code == 1
    assert json.loads(out)["lanes"]["haiku-5-5"]["quotas"] == []


def test_ctrl_c_ends_the_wait(start: Start) -> None:
    """At once, with one line, and nothing on stdout."""
    with FakeClaude(latency=60) as fake:
        process = start("limits", "--base-url", fake.url)
        wait_until(lambda: len(fake.arrivals) == 1)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (out, said) == (b"", b"claude-throttle limits: interrupted\n")
