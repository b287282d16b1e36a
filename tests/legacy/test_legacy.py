"""Applications that know nothing of us, and the same with at most five changed lines.

Thirty callers at once meet a quota of one request a second with a burst of two; .ci/run plays that
with the libraries that .ci/legacy.txt names. The default run plays three of them, twenty times as
fast, where only what is answered counts: a cold client's first request takes longer than its turn.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
from pathlib import Path

import pytest
from anthropic.resources import Messages

from claude_throttle.testing import ClaudeApi
from tests.support.needs import needs
from tests.support.thorough import only_thorough

LEGACY = Path(__file__).parent.parent.parent / "examples" / "legacy"

CALLERS = 30
BURST = 2

#: Requests a minute, and for a run that is over in one and a half seconds.
REAL, QUICK = 60, 1_200

#: The lines of the file that an application is given.
LINES = [f"line {number}" for number in range(CALLERS)]

#: Runs a Flask or Django application: thirty clients at once, the answer of each on a line.
VISIT = """
import json
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(30) as pool:
    for answer in pool.map(visit, range(30)):
        print(json.dumps(answer))
"""

VISIT_FLASK = """
import {module}

def visit(number):
    query = {{"question": f"line {{number}}"}}
    return {module}.app.test_client().get("/answer", query_string=query).get_data(as_text=True)
"""

VISIT_DJANGO = """
import {module}
from django.test import Client

def visit(number):
    return Client().get("/invoice", {{"text": f"line {{number}}"}}).content.decode()
"""

#: For each application: what it is given as its file, and what visits it instead of running it.
APPLICATIONS = {
    "csv_threads": ("\n".join(["review", *LINES]), ""),
    "raw_httpx": ("\n".join(LINES), ""),
    "raw_requests": ("\n".join(LINES), ""),
    "tool_loop": ("", ""),
    "sse_view": ("", VISIT_FLASK),
    "django_beta": ("", VISIT_DJANGO),
    "pandas_rows": ("\n".join(["text", *LINES[:-1], '""']), ""),
    "langchain_chat": ("\n".join(LINES), ""),
}

#: Run in tests/legacy/test_celery.py, since it needs a worker and a Redis.
ELSEWHERE = {"celery_tasks"}


def source(name, when):
    return (LEGACY / when / f"{name}.py").read_text(encoding="utf-8")


def program(name, when):
    """The text that is run, and the folder in which it finds the application."""
    visit = APPLICATIONS[name][1]
    text = (visit + VISIT).format(module=name) if visit else source(name, when)
    if "temperature" in text and "temperature" not in inspect.signature(Messages.create).parameters:
        text = text.replace("        temperature=0.0,\n", "")  # SDK 2 takes none
    return text, LEGACY / when


@pytest.fixture
def run(warm, tmp_path):
    """``run(name, when, server, **settings)``: what the application prints, line by line."""

    def start(name, when, server, **settings):
        text, folder = program(name, when)
        given = tmp_path / "given.txt"
        given.write_text(APPLICATIONS[name][0], encoding="utf-8")
        own = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment = {
            **own,
            "ANTHROPIC_API_KEY": "sk-ant-example",
            "ANTHROPIC_BASE_URL": server.url,
            **{f"CLAUDE_THROTTLE_{key.upper()}": str(value) for key, value in settings.items()},
        }
        done = warm.run(
            text, str(given), folder=tmp_path, environment=environment, paths=[folder], timeout=110
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    return start


def reply(request):
    """The answer to a request of one of them: a tool call, JSON for a schema, or some words."""
    asked = request["messages"][-1]["content"]
    if "output_format" in request:
        return json.dumps({"total": 12.5, "currency": "EUR"})
    if request.get("tools") and isinstance(asked, str):
        city = {"city": asked.removeprefix("What shall I wear in ").rstrip("?")}
        return {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": city}
    return f"{asked}: answered" if isinstance(asked, str) else "A coat."


@pytest.fixture
def api():
    """``api(**limits)``: a fake that answers as they expect."""
    with contextlib.ExitStack() as stack:

        def start(**limits):
            server = stack.enter_context(ClaudeApi(**limits))
            server.answer(reply)
            return server

        yield start


def refused(server):
    return [arrival for arrival in server.arrivals if arrival.status == 429]


@pytest.mark.parametrize("name", sorted([*APPLICATIONS, *ELSEWHERE]))
def test_at_most_five_lines_change(name):
    """A line that is changed counts once."""
    lines = [source(name, when).splitlines() for when in ("before", "after")]
    changed = [line for line in difflib.ndiff(*lines) if line.startswith(("+ ", "- "))]
    added = sum(line.startswith("+ ") for line in changed)
    assert max(added, len(changed) - added) <= 5


def test_each_application_is_run():
    found = {path.stem for path in LEGACY.rglob("*.py")}
    assert found == {*APPLICATIONS, *ELSEWHERE}


def answered(name, run, api, server, **settings):
    """Run the changed application at *server*; it must print what it prints without limits.

    But for the last row of the table, which holds no text: that alone fails.
    """
    expected, _ = run(name, "before", api())
    printed, errors = run(name, "after", server, **settings)
    if name == "pandas_rows":
        assert "failed: " in printed.pop(), errors
        expected.pop()
    assert printed == expected, errors


def test_all_requests_are_answered_as_without_limits(api, run):
    """Quickly, and without a library that the suite has no other use for."""
    answered("raw_requests", run, api, api(rpm=QUICK, burst=BURST), rpm=QUICK)


@needs("text events", "tools")
@pytest.mark.parametrize("name", ["sse_view", "tool_loop"])
def test_all_calls_are_answered_as_without_limits(api, run, name):
    """As those of the official SDK, which they replace."""
    answered(name, run, api, api(rpm=QUICK, burst=BURST), rpm=QUICK)


@pytest.mark.parametrize("name", [*map(only_thorough, APPLICATIONS)])
def test_with_a_told_quota_nothing_is_refused_or_late(api, run, name):
    server = api(rpm=REAL, burst=BURST)
    answered(name, run, api, server, rpm=REAL)
    assert not refused(server)
    at = [arrival.at for arrival in server.arrivals]
    assert at[-1] - at[0] <= 1.03 * (len(at) - 1) * 60 / REAL


@pytest.mark.parametrize("name", [*map(only_thorough, APPLICATIONS)])
def test_without_a_told_quota_it_is_learned_by_two_refusals_at_most(api, run, name):
    server = api(rpm=REAL, burst=BURST)
    answered(name, run, api, server)
    assert len(refused(server)) <= 2
    at = [arrival.at for arrival in server.arrivals if arrival.admitted]
    # After a refusal the server wants a whole second to pass.
    assert at[-1] - at[0] <= 1.03 * (len(at) - BURST) * 60 / REAL + len(refused(server))


@pytest.mark.parametrize("name", [*map(only_thorough, APPLICATIONS)])
def test_without_us_many_fail(api, run, name):
    """Or there would be nothing to mend."""
    expected, _ = run(name, "before", api())
    printed, _ = run(name, "before", api(rpm=REAL, burst=BURST))
    assert len(set(printed) & set(expected)) < len(expected) - 5
