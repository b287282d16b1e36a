"""Each example runs, unchanged, against the fake API."""

from __future__ import annotations

import os
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
