"""README and guides tell the truth: their blocks run, their tables are the code's own."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from claude_throttle import Settings, Throttler
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
from tests.support.documents import BLOCKS, CHECKS, DOCUMENTS, blocks, check_of, checked_by
from tests.support.programs import ROOT


def each(test):
    return pytest.mark.parametrize("block", checked_by(f"::{test}"), ids=str)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_left_to_a_test(block):
    """One that does not run as it stands says why in CHECKS."""
    check = check_of(block)
    assert check is not None, f"add a Check for {block.file}:{block.line}"
    file, _, test = check.by.partition("::")
    assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text("utf-8")


def test_no_check_is_left_without_a_block():
    """What the list says of blocks is of blocks that exist."""
    assert {check.by for check in CHECKS} == {check_of(block).by for block in BLOCKS}


@pytest.mark.parametrize("file", DOCUMENTS)
def test_no_fence_is_overlooked(file):
    """Neither an indented one nor one of tildes."""
    lines = DOCUMENTS[file].read_text("utf-8").splitlines()
    fences = [line for line in lines if re.match(r"\s*(```|~~~)", line)]
    assert len(fences) == 2 * sum(block.file == file for block in BLOCKS)


def environment(server):
    return {**os.environ, "ANTHROPIC_API_KEY": "sk-ant-readme", "ANTHROPIC_BASE_URL": server.url}


def run(command, environment, folder):
    """What it prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_python(warm, tmp_path):
    """``run_python(text, server)`` is what it prints; with files in a folder of its own."""

    def run_python(text, server, **more):
        done = warm.run(
            text.replace("/tmp/", f"{tmp_path}/"),
            folder=tmp_path,
            environment={**environment(server), "PYTHONPATH": str(ROOT), **more},
            paths=[tmp_path],
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_python


@each("test_python_blocks_run")
def test_python_blocks_run(fake, run_python, block):
    """As they stand, against the fake API."""
    printed = run_python(block.text, fake())
    for expected in re.findall(r"print\(.*#\s*(\[.*\])", block.text):
        assert expected in printed


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

VISIT_DJANGO = """
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


@each("test_django_blocks_make_a_site")
def test_django_blocks_make_a_site(fake, run_python, tmp_path, block):
    """Each part in the file that it names; somebody visits it."""
    _, *parts = re.split(r"^# (\w+\.py)\n", block.text, flags=re.M)
    written = dict(zip(parts[::2], parts[1::2]))
    whole = set(written) == set(BEFORE)
    assert whole or (block.file == "README.md" and set(written) == {"settings.py", "views.py"})
    for name, before in BEFORE.items():
        text = written.get(name, "").replace("/tmp/", f"{tmp_path}/")
        (tmp_path / name).write_text(f"{before}\n{text}")
    printed = run_python(VISIT_DJANGO, fake(), DJANGO_SETTINGS_MODULE="settings")
    status_page = "403 403" if whole else "404 404"
    assert printed.splitlines() == ["echo: Why?", "503", status_page]


VISIT_FLASK = """
claude.throttlers(app)["default"].preload()
response = app.test_client().get("/hello")
print(response.status_code, response.text)
claude.reset(app)
"""


@each("test_flask_blocks_answer")
def test_flask_blocks_answer(fake, run_python, block):
    """By the application's own client."""
    printed = run_python(block.text + VISIT_FLASK, fake())
    assert printed == "200 echo: Say hello.\n"


@each("test_celery_blocks_answer")
def test_celery_blocks_answer(fake, run_python, block):
    """Eagerly, which needs no broker and no worker; on a store that is there."""
    assert block.text.count("shared=REDIS") == 1
    text = block.text.replace("shared=REDIS", 'shared="sqlite:////tmp/celery.db"')
    visit = 'print(summarise.apply(args=["Tea."]).get())\n'
    assert run_python(text + visit, fake()) == "echo: Summarise: Tea.\n"


@pytest.fixture
def claude_throttle(fake, tmp_path):
    """``claude_throttle(block)``: what the command of a console block prints."""
    server = fake(rpm=1_000)

    def words(block):
        (command,) = (line[2:] for line in block.text.splitlines())
        first, *rest = shlex.split(command.replace("/tmp/", f"{tmp_path}/"))
        assert first == "claude-throttle"
        return [sys.executable, "-m", "claude_throttle", *rest]

    def claude_throttle(block):
        return run(words(block), environment(server), tmp_path)

    claude_throttle.words, claude_throttle.server = words, server
    return claude_throttle


@each("test_console_blocks_run")
def test_console_blocks_run(claude_throttle, tmp_path, block):
    """With a file of two prompts, and a process that shares a quota."""
    (tmp_path / "prompts.jsonl").write_text('"one"\n"two"\n')
    name = claude_throttle.words(block)[3]
    if name == "run":
        claude_throttle(block)
        assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
        assert len(claude_throttle.server.arrivals) == (0 if "--fake" in block.text else 2)
    elif name == "limits":
        assert "requests" in claude_throttle(block)
        assert len(claude_throttle.server.arrivals) == 1
    else:
        assert name == "fleet"
        shared = f"sqlite:///{tmp_path}/claude-readme.db"
        settings = {"api_key": "any", "base_url": claude_throttle.server.url, "rpm": 600}
        with Throttler(shared=shared, **settings) as throttler:
            throttler.call(
                model="claude-haiku-4-5",
                max_tokens=9,
                messages=[{"role": "user", "content": "Hi"}],
                raw=True,
            )
            assert str(os.getpid()) in claude_throttle(block)


@each("test_the_fake_api_of_the_command_line_answers")
def test_the_fake_api_of_the_command_line_answers(claude_throttle, tmp_path, block):
    """At the address on its first line, with any key."""
    command = claude_throttle.words(block)
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with server:
        try:
            address = server.stdout.readline().strip()
            with Throttler(api_key="any", base_url=address) as throttler:
                answer = throttler.call(
                    model="claude-haiku-4-5",
                    max_tokens=9,
                    messages=[{"role": "user", "content": "Hi"}],
                    raw=True,
                )
        finally:
            server.terminate()
    assert answer["content"][0]["text"] == "echo: Hi"


def test_the_two_commands_are_the_ones_ci_runs():
    """CI takes them from here, so they cannot drift apart."""
    demo, tests = blocks("bash")
    assert demo.strip().endswith("claude-throttle demo")
    assert tests.strip().endswith("pytest -q")
    assert demo.count("\n") == tests.count("\n") == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


#: Where the generated tables are.
TABLES = {
    "settings": DOCUMENTS["examples/guides/settings.md"],
    "refusals": DOCUMENTS["examples/guides/refusals.md"],
}


def section(name):
    text = TABLES[name].read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
    return found


def settings_table():
    """One line a setting, from the comments above the fields."""
    source = inspect.getsource(Settings)
    body = source[: source.index("def __post_init__")]
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
    RATE: "the lane pauses to `retry-after`, or for a backoff of its own, then goes on at its pace,"
    " without a burst",
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
    rows.append(
        "| account disabled, key refused, spend limit | 400, 403: error codes such as"
        " `organization_disabled`, or words such as “This organization has been disabled.” |"
        f" no | {MEANWHILE[ACCOUNT]} |"
    )
    rows.append(
        "| spend limit | any 429 with words about money or the usage of a month | no |"
        " only this call fails |"
    )
    rows.append(
        "| a refusal by something else than the API | 4xx without its JSON and its headers: a"
        " firewall's page, a gateway's words | 408, 409, 429 | only a 429 concerns other calls |"
    )
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
    body = json.dumps({"type": "error", "error": {"type": "x", **error}}).encode()
    said = classify(min(rule.statuses, default=429), headers, body, 0.0)
    assert said.reason in (rule.reason, "spend limit")
    return said


def _again(rule):
    asked, unasked = _judged(rule, {"retry-after": "3"}).retry, _judged(rule, {}).retry
    assert asked or not unasked
    if not asked:
        return "no"
    assert unasked
    return "yes"


def _meanwhile(rule):
    said = _judged(rule, {"retry-after": "3"})
    assert said.pauses_lane is (rule.cause in PAUSING)
    assert said.pauses_lane is ("the lane pauses" in MEANWHILE.get(rule.cause, ""))
    if rule.reason == NOT_PERMITTED:
        return "this lane is suspended: it may be about one model"
    return MEANWHILE.get(rule.cause) or ("only this call waits" if rule.retry else "")


@pytest.mark.parametrize("table", [settings_table, refusals_table])
def test_tables_are_the_codes_own(table):
    """Run ``python -m tests.test_readme`` to write them anew."""
    name = table.__name__.partition("_")[0]
    assert section(name) == table()


if __name__ == "__main__":
    for make in (settings_table, refusals_table):
        name = make.__name__.partition("_")[0]
        old, new = section(name), make()
        text = TABLES[name].read_text(encoding="utf-8")
        text = text.replace(f"<!-- {name} -->\n{old}", f"<!-- {name} -->\n{new}")
        TABLES[name].write_text(text, encoding="utf-8")
