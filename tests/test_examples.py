"""Each example runs, unchanged, against the fake API."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.needs import needs

EXAMPLES = Path(__file__).parent.parent / "examples"

#: Run in tests/servers, since it needs a worker and a Redis; in tests/with_flask by web servers.
ELSEWHERE = {
    *("celery_app.py", "rq_jobs.py", "dramatiq_actors.py"),
    *("flask_app.py", "gunicorn.conf.py"),
}

#: Standard input, and what standard output must hold.
EXPECTED = {
    "quickstart.py": ("", "10 succeeded (100.0%)"),
    "map_csv.py": ("review\nfine\nawful\n", 'awful,"echo: Answer in one word'),
    "web_and_batch.py": ("", "51 succeeded (100.0%)"),
    "own_requests.py": ("", "echo: How many words?"),
    "batches.py": ("", "r-17 echo: Good, bad or neither? Arrived broken."),
    "official_sdk.py": ("", "echo: One.\necho: Two.\necho: Three.\n"),
}


def test_every_example_is_run():
    """A new one must say what it prints."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*EXPECTED, *ELSEWHERE}


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "official_sdk.py"])
def test_the_example_works(fake, warm, tmp_path, name):
    run_example(fake, warm, tmp_path, name)


@needs("middleware")
def test_the_example_of_the_sdks_client_works(fake, warm, tmp_path):
    run_example(fake, warm, tmp_path, "official_sdk.py")


def run_example(fake, warm, tmp_path, name):
    """As a newcomer would run it, with the address of the fake."""
    server = fake()
    given, expected = EXPECTED[name]
    environment = {
        **os.environ,
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": server.url,
    }
    program = (EXAMPLES / name).read_text(encoding="utf-8")
    done = warm.run(program, folder=tmp_path, environment=environment, given=given)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert server.arrivals or server.batches.arrivals


#: Each of manage.py's commands in turn; with what they print between lines of their own.
MANAGE = """
import json, os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "helpdesk.settings"
for words in json.load(sys.stdin):
    try:
        execute_from_command_line(["manage.py", *words])
    except SystemExit as exit:
        assert not exit.code, words
    print(END)
"""


@pytest.fixture
def manage(warm, tmp_path):
    """``manage(server, *commands)``: what each prints in a copy of the Django project."""
    project = shutil.copytree(EXAMPLES / "django_project", tmp_path / "project")
    end = "-- this command has ended --"

    def run(server, *commands):
        done = warm.run(
            MANAGE.replace("END", repr(end)),
            folder=project,
            given=json.dumps(commands),
            environment={
                **os.environ,
                "ANTHROPIC_API_KEY": "sk-ant-example",
                "ANTHROPIC_BASE_URL": server.url,
                "PYTHONPATH": str(EXAMPLES.parent),
            },
            paths=[project],
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split(f"{end}\n")[:-1]

    return run


def test_the_django_project_passes_its_own_tests(fake, warm, tmp_path):
    """By its ``manage.py``, as its author would run them."""
    project = shutil.copytree(EXAMPLES / "django_project", tmp_path / "project")
    program = (project / "manage.py").read_text(encoding="utf-8")
    server = fake()
    environment = {**os.environ, "ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": server.url}
    done = warm.run(program, "test", folder=project, environment=environment, paths=[project])
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr
    assert server.arrivals == []


def test_the_django_project_works(fake, manage, tmp_path):
    """Its checks, its migrations, and its command against the fake."""
    server = fake()
    tickets = [{"title": f"Ticket {n}", "text": f"No tea {n}."} for n in range(3)]
    made = [{"model": "tickets.ticket", "fields": fields} for fields in tickets]
    (tmp_path / "tickets.json").write_text(json.dumps(made))
    checked, migrations, _, _, first, second, dumped, status = manage(
        server,
        ["check", "--deploy", "--tag", "claude_throttle"],
        ["makemigrations", "--check", "--dry-run"],
        ["migrate"],
        ["loaddata", str(tmp_path / "tickets.json")],
        ["summarise_tickets"],
        ["summarise_tickets"],
        ["dumpdata", "tickets"],
        ["claude_throttle", "status"],
    )
    assert "no issues" in checked
    assert "No changes" in migrations
    assert "3 summarised, 0 failed" in first
    assert "0 summarised, 0 failed" in second
    assert "echo: Summarise in one sentence: No tea 2." in dumped
    assert len(server.arrivals) == 3
    assert "batch: <Throttler" in status


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_screen(path):
    """Whoever reads it wants to copy it."""
    assert len(path.read_text().splitlines()) <= 60
