"""The README tells the truth: its blocks run, its tables are the code's own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from claude_throttle import Settings
from claude_throttle.core.domain.feedback import (
    ACCOUNT,
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    PAUSING,
    RAMP,
    RATE,
)
from claude_throttle.core.pacing.circuit_breaker import FAILURES_IN_A_ROW
from claude_throttle.transport.verdicts import NOT_PERMITTED, RULES, classify

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def environment(server):
    return {**os.environ, "ANTHROPIC_API_KEY": "sk-ant-readme", "ANTHROPIC_BASE_URL": server.url}


#: Of a site, which has more than these lines.
DJANGO = next(text for text in blocks("python") if text.startswith("# settings.py"))


@pytest.mark.parametrize("block", [text for text in blocks("python") if text != DJANGO])
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


#: What a project has before it reads this.
BEFORE = {
    "settings.py": """
SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF, USE_TZ = "none", ["*"], "urls", True
INSTALLED_APPS, MIDDLEWARE = [], []
""",
    "views.py": "from django.http import HttpResponse",
    "urls.py": """
from django.urls import include, path
from views import answer
urlpatterns = [path("answer", answer)]
""",
}

VISIT = """
import django, django.test
django.setup()
client = django.test.Client()
print(client.get("/answer", {"question": "Why?"}).content.decode())
from claude_throttle.contrib.django import throttlers
throttlers["default"].reconfigure(timeout=0.01)
throttlers["default"].pause()
print(client.get("/answer", {"question": "Why?"}).status_code)
print(client.get("/claude/").status_code, client.get("/claude/data.json").status_code)
"""


def test_the_django_block_makes_a_site(fake, tmp_path):
    """Each part in the file that it names; somebody visits it."""
    _, *parts = re.split(r"^# (\w+\.py)\n", DJANGO, flags=re.M)
    assert set(parts[::2]) == set(BEFORE)
    for name, text in zip(parts[::2], parts[1::2]):
        text = text.replace("/tmp/", f"{tmp_path}/")
        (tmp_path / name).write_text(f"{BEFORE[name]}\n{text}")
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", VISIT],
        env={**environment(fake()), "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["echo: Why?", "503", "403 403"]


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
    source = (ROOT / "claude_throttle" / "config" / "settings.py").read_text(encoding="utf-8")
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


STREAK = f"{FAILURES_IN_A_ROW} in a row open the circuit"

#: What the pace does, in a user's words.
MEANWHILE = {
    RATE: "the lane pauses to `retry-after`, then goes on at its pace, without a burst",
    RAMP: "the lane pauses to `retry-after`; from then on growth is held to the server's step",
    CONCURRENCY: "only this call waits; fewer may be in flight",
    OVERLOAD: f"the lane pauses to `retry-after`; without it only this call waits, and {STREAK}",
    FAULT: f"only this call waits; {STREAK}",
    ACCOUNT: "the account is suspended",
}


def refusals_table():
    """One line a rule of the verdict table, and how that judges."""
    rows = ["| refused for | known by | tried again | meanwhile |", "|---|---|---|---|"]
    for rule in RULES:
        rows.append(f"| {rule.reason} | {_marks(rule)} | {_again(rule)} | {_meanwhile(rule)} |")
    rows.append("| probably a spend limit | 429 that names neither a time nor a quota | no | |")
    rows.append(f"| no connection | or lost before any byte of answer | yes | {MEANWHILE[FAULT]} |")
    rows.append("| no answer in time | it may be billed | if `retry_read_timeouts` | |")
    rows.append("| anything else | 400, 404, 413, 422 … | no | |")
    return "\n".join(rows) + "\n"


def _marks(rule):
    """How it is told from others; the status is enough if it has no other mark."""
    signs = [f"`{code}`" for code in sorted(rule.codes)]
    signs += [f"“…{text}…”" for text in rule.texts]
    signs += [f"“{beginning}…”" for beginning in rule.beginnings]
    earlier = {status for before in RULES[: RULES.index(rule)] for status in before.statuses}
    left = "any other " if earlier & set(rule.statuses) and not signs else ""
    status = left + " or ".join(_ranges(rule.statuses))
    return ": ".join(part for part in (status, ", ".join(signs)) if part)


def _ranges(statuses):
    whole = len(statuses) > 2 and statuses == tuple(range(statuses[0], statuses[-1] + 1))
    return [f"{statuses[0]} to {statuses[-1]}"] if whole else [str(status) for status in statuses]


def _judged(rule, headers):
    """The verdict on a refusal with one of its marks."""
    code = min(rule.codes, default=None)
    message = min((*rule.texts, *rule.beginnings), default="")
    error = {"message": message, "details": {"error_code": code}}
    body = json.dumps({"error": error}).encode()
    said = classify(min(rule.statuses, default=429), headers, body, 0.0)
    assert said.reason in (rule.reason, "spend limit")
    return said


def _again(rule):
    asked, unasked = _judged(rule, {"retry-after": "3"}).retry, _judged(rule, {}).retry
    assert asked or not unasked
    if not asked:
        return "no"
    return "yes" if unasked else "yes, if it names `retry-after` or its quota"


def _meanwhile(rule):
    said = _judged(rule, {"retry-after": "3"})
    assert said.pauses_lane is (rule.cause in PAUSING)
    assert said.pauses_lane is ("the lane pauses" in MEANWHILE.get(rule.cause, ""))
    if rule.reason == NOT_PERMITTED:
        return "this lane is suspended: it may be about one model"
    return MEANWHILE.get(rule.cause) or ("only this call waits" if rule.retry else "")


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
