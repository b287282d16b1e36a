"""Each line that the guide of doors tells its readers to write is run, and is paced."""

from __future__ import annotations

import ast
import asyncio
import re

import anthropic
import pytest
import requests

from claude_throttle import Throttler
from tests.support.documents import DOCUMENTS
from tests.support.httpx_libraries import OF_THE_SDK

GUIDE = DOCUMENTS["examples/guides/which_door.md"].read_text("utf-8")

MODEL = "claude-haiku-4-5"


def lines():
    """What is to be written, by the table it stands in."""
    for part in GUIDE.split("\n## ")[1:]:
        title, *rest = part.splitlines()
        for row in [line for line in rest if line.startswith("| ")][1:]:
            cells = re.split(r" \| ", row.strip("| "))
            yield title, re.search(r"`([^`]+)`", cells[1]).group(1)


LINES = list(lines())

#: What the rest of a program does with the client that it keeps, by what the line makes or does.
USES = {
    "client = anthropic": "client.messages.create(**question)",
    "client = httpx": "client.post(url, json=question, headers=headers)",
    "session = ": "session.post(url, json=question, headers=headers)",
    "throttler.mount(": "session.post(url, json=question, headers=headers)",
    "futures = ": "[future.result() for future in futures]",
}


@pytest.fixture
def names(fake, monkeypatch):
    """The names that the lines speak of, and the fake they lead to."""
    server = fake()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-example")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("CLAUDE_THROTTLE_BATCH_POLL_SECONDS", "0.01")
    messages = [{"role": "user", "content": "Hello"}]
    question = {"model": MODEL, "max_tokens": 100, "messages": messages}
    headers = {"x-api-key": "sk-ant-example", "anthropic-version": "2023-06-01"}
    url = f"{server.url}/v1/messages"
    with Throttler() as throttler, requests.Session() as session:
        yield {
            "anthropic": anthropic,
            "asyncio": asyncio,
            "httpx": OF_THE_SDK,  # httpx, or httpx2 which has the same names
            "throttler": throttler,
            "Throttler": Throttler,
            "session": session,
            "question": question,
            "rows": [question],
            "model": MODEL,
            "messages": list(messages),
            "url": url,
            "headers": headers,
            "send": lambda: requests.post(url, json=question, headers=headers, timeout=9),
            "server": server,
        }


def run(line, names):
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    value = eval(compile(line, "which_door.md", "exec", flags), names)
    if value is not None:
        asyncio.run(value)
    for begin, use in USES.items():
        if line.startswith(begin):
            exec(use, names)
    for name in ("client", "session"):
        if name in names:
            names[name].close()


@pytest.mark.parametrize("line", [line for title, line in LINES if title.startswith("You ")])
def test_what_is_written_is_answered_and_paced(names, line):
    """Counted by the throttler, whichever door it came by."""
    run(line, names)
    server = names["server"]
    stats = names["throttler"].stats()
    assert server.arrivals or server.batches.arrivals
    assert stats.submitted + stats.permits or server.batches.arrivals


@pytest.mark.parametrize("line", [line for title, line in LINES if "many places" in title])
def test_what_is_written_elsewhere_is_valid(line):
    """It is run in the guide that the line names."""
    ast.parse(line)
    where = GUIDE.partition(line)[2].partition("](")[2].partition(")")[0]
    text = (DOCUMENTS["examples/guides/which_door.md"].parent / where).read_text("utf-8")
    names = [node.id for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)]
    imported = re.findall(r"import (\w+)", line)
    assert all(name in text for name in names + imported)
