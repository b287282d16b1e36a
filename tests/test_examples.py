"""Each example runs, unchanged, against the fake API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

#: Run in tests/servers, since it needs a worker and a Redis; in tests/with_flask by web servers.
ELSEWHERE = {"celery_app.py", "flask_app.py", "gunicorn.conf.py"}

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


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_works(fake, tmp_path, name):
    """As a newcomer would run it, with the address of the fake."""
    server = fake()
    given, expected = EXPECTED[name]
    environment = {
        **os.environ,
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": server.url,
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        input=given,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert server.arrivals or server.batches.arrivals


@pytest.fixture
def manage(tmp_path):
    """``manage(server, …)``: what ``manage.py`` of a copy of the Django project prints."""
    project = shutil.copytree(EXAMPLES / "django_project", tmp_path / "project")

    def run(server, *words, given=""):
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=project,
            input=given,
            env={
                **os.environ,
                "ANTHROPIC_API_KEY": "sk-ant-example",
                "ANTHROPIC_BASE_URL": server.url,
                "PYTHONPATH": str(EXAMPLES.parent),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def test_the_django_project_works(fake, manage):
    """Its own tests, its checks, its migrations, and its command against the fake."""
    server = fake()
    assert "OK" in manage(server, "test")
    assert "no issues" in manage(server, "check", "--deploy", "--tag", "claude_throttle")
    assert "No changes" in manage(server, "makemigrations", "--check", "--dry-run")
    assert server.arrivals == []
    manage(server, "migrate")
    tickets = [{"title": f"Ticket {n}", "text": f"No tea {n}."} for n in range(3)]
    made = [{"model": "tickets.ticket", "fields": fields} for fields in tickets]
    manage(server, "loaddata", "--format=json", "-", given=json.dumps(made))
    assert "3 summarised, 0 failed" in manage(server, "summarise_tickets")
    assert "0 summarised, 0 failed" in manage(server, "summarise_tickets")
    assert "echo: Summarise in one sentence: No tea 2." in manage(server, "dumpdata", "tickets")
    assert len(server.arrivals) == 3
    assert "batch: <Throttler" in manage(server, "claude_throttle", "status")


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_screen(path):
    """Whoever reads it wants to copy it."""
    assert len(path.read_text().splitlines()) <= 60
