"""The README tells the truth: its blocks run, its tables are the code's own."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from claude_throttle import Settings
from claude_throttle.transport.answers import RETRYABLE, judge

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def environment(server):
    return {**os.environ, "ANTHROPIC_API_KEY": "sk-ant-readme", "ANTHROPIC_BASE_URL": server.url}


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(fake, block):
    """As they stand, against the fake API."""
    done = subprocess.run(
        [sys.executable, "-c", block],
        env=environment(fake()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for expected in re.findall(r"print\(.*#\s*(\[.*\])", block):
        assert expected in done.stdout


def test_the_command_line_block_runs(fake, tmp_path):
    """With a file of two prompts."""
    (command,) = (line[2:] for line in blocks("console")[0].splitlines())
    (tmp_path / "prompts.jsonl").write_text('"one"\n"two"\n')
    words = shlex.split(command)
    assert words[0] == "claude-throttle"
    done = subprocess.run(
        [sys.executable, "-m", "claude_throttle", *words[1:]],
        cwd=tmp_path,
        env=environment(fake()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2


def test_the_two_commands_are_the_ones_ci_runs():
    """CI takes them from here, so they cannot drift apart."""
    demo, tests = blocks("bash")
    assert demo.strip().endswith("claude-throttle demo")
    assert tests.strip().endswith("pytest -q")
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def section(name):
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.S)
    assert found is not None
    return found.group(1)


def settings_table():
    """One line a setting, from the comments above the fields."""
    source = (ROOT / "claude_throttle" / "settings.py").read_text(encoding="utf-8")
    body = source[source.index("class Settings:") : source.index("def __post_init__")]
    told = dict(_comments(body))
    rows = ["| setting | default | |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        rows.append(f"| `{field.name}` | {_default(field)} | {told[field.name]} |")
    return "\n".join(rows) + "\n"


def _comments(body):
    for comment, name in re.findall(r"((?:    #: .*\n)+)    (\w+):", body):
        yield name, " ".join(line.strip()[3:] for line in comment.splitlines())


def _default(field):
    if field.default is dataclasses.MISSING:
        return "none"
    return "none" if field.default is None else f"`{field.default!r}`".replace("'", "")


def refusals_table():
    """What becomes of each status, asked of the verdict table itself."""
    rows = ["| status | tried again | meanwhile |", "|---|---|---|"]
    for status, reason in RETRYABLE.items():
        rows.append(f"| {status} {reason} | yes | {_meanwhile(status)} |")
    rows.append("| 429 with a spend `error_code`, or without `retry-after` | no | |")
    rows.append("| no connection, or lost before any byte of answer | yes | only this call waits |")
    rows.append("| anything else | no | |")
    return "\n".join(rows) + "\n"


def _meanwhile(status):
    wish = {"x-should-retry": "true"}
    asked = judge(status, {**wish, "retry-after": "3"}, b"", 0.0).pauses_lane
    unasked = judge(status, wish, b"", 0.0).pauses_lane
    assert not unasked
    return "the whole lane pauses if it names `retry-after`" if asked else "only this call waits"


@pytest.mark.parametrize("table", [settings_table, refusals_table])
def test_tables_are_the_codes_own(table):
    """Run this file as a script to write them anew."""
    name = table.__name__.partition("_")[0]
    assert section(name) == table()


if __name__ == "__main__":
    text = README
    for make in (settings_table, refusals_table):
        name = make.__name__.partition("_")[0]
        old, new = section(name), make()
        text = text.replace(f"<!-- {name} -->\n{old}", f"<!-- {name} -->\n{new}")
    (ROOT / "README.md").write_text(text, encoding="utf-8")
