"""The fake server in a process of its own: for the benchmark, and from the command line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from claude_throttle.cli import main, serve_fake
from claude_throttle.testing import FakeClaude
from tests.bench.server import Server
from tests.support.fake_http import ask


@pytest.fixture(scope="module")
def server():
    with Server(rpm=6000, latency=[0.001, 0.002], output_tokens=[5, 9]) as running:
        yield running


def test_the_benchmarks_server_changes_while_it_runs(server):
    """By lines on stdin: limits, faults, an outage of any kind; its log tells."""
    before = len(server.arrivals())
    server.change(outage=True)
    ask(server)
    server.change(outage="CREDIT_TOO_LOW")
    ask(server)
    server.change(outage=False, faults={"500": 1.0})
    ask(server)
    server.change(faults={}, limits={"burst": 1, "rpm": 1})
    ask(server)
    ask(server)
    server.change(limits={"rpm": 6000, "burst": None})
    statuses = [arrival.status for arrival in server.arrivals()[before:]]
    assert statuses == [529, 400, 500, 200, 429]


def test_spread_options_are_pairs(server):
    """The shortest and the longest; JSON has no functions."""
    server.change(limits={"rpm": None})
    lengths = {ask(server).json()["usage"]["output_tokens"] for _ in range(30)}
    assert lengths <= set(range(5, 10))
    assert len(lengths) > 1


def test_what_else_it_knows_can_be_asked(server):
    """Others' requests, and what came to other places."""
    assert server.others_taken() == 0
    assert server.other_arrivals() == []


@pytest.mark.parametrize(
    "change", [{"limits": {"rps": 1}}, {"faults": {"teapot": 1}}, {"weather": 1}, {"outage": "X"}]
)
def test_a_slip_is_told_and_ends_nothing(server, change):
    """The benchmark fails with the reason; the server answers on."""
    with pytest.raises(ValueError, match="the server cannot do"):
        server.change(**change)
    assert ask(server).status_code == 200


def test_the_command_line_passes_every_option_on(monkeypatch):
    """Under the names of FakeClaude, which checks them."""
    told = SimpleNamespace()

    class Fake(FakeClaude):
        def __init__(self, **settings):
            told.settings = settings
            super().__init__(**settings)

        def serve_forever(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(serve_fake, "FakeClaude", Fake)
    numbers = {
        "promised_burst": 960,
        "others_rpm": 30,
        "ramp": 25_000,
        "ramp_step": 70_000,
        "count_rpm": 100,
        "concurrency_retry_after": 2,
        "overload_retry_after": 3,
    }
    options = [
        text for name, n in numbers.items() for text in (f"--{name.replace('_', '-')}", str(n))
    ]
    options += ["--headers-at", "answer", "--shared-model", "a=x", "--shared-model", "b=x"]
    assert main.main(["serve-fake", *options]) == 0
    assert told.settings == {
        **numbers,
        "headers_at": "answer",
        "shared_models": {"a": "x", "b": "x"},
        "fault_rates": {},
        "log_limit": serve_fake.LOG_LIMIT,
    }


def test_a_shared_model_needs_both_names(capsys):
    """A slip is told before the server starts."""
    assert main.main(["serve-fake", "--shared-model", "opus"]) == 2
    assert "claude-opus-4-8=opus" in capsys.readouterr().err
