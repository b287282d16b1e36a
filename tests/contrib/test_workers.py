"""How many workers there are, where that can be seen."""

from __future__ import annotations

import pytest

from claude_throttle.contrib.gunicorn_options import visible_workers


@pytest.mark.parametrize(
    ("environ", "argv", "workers"),
    [
        ({}, ["flask", "run"], 1),
        ({}, ["/usr/bin/gunicorn", "-w", "4", "app:app"], 4),
        ({}, ["gunicorn", "-w4", "app:app"], 4),
        ({}, ["gunicorn", "--workers=4", "--workers", "5", "app:app"], 5),
        ({}, ["gunicorn", "-k=gthread", "app-w:app"], 1),
        ({}, ["/my/gunicorn-w", "app:app"], 1),
        ({}, ["celery", "-w", "4"], 1),
        ({}, [], 1),
        ({"WEB_CONCURRENCY": "3"}, ["flask"], 3),
        ({"WEB_CONCURRENCY": ""}, ["flask"], 1),
        ({"WEB_CONCURRENCY": "many"}, ["flask"], 1),
        ({"GUNICORN_CMD_ARGS": "--workers 2 'x"}, ["flask"], 1),
        ({"GUNICORN_CMD_ARGS": "-w 2", "WEB_CONCURRENCY": "3"}, ["gunicorn"], 2),
        ({"GUNICORN_CMD_ARGS": "-w 2", "WEB_CONCURRENCY": "3"}, ["gunicorn", "-w", "1"], 1),
        ({"GUNICORN_CMD_ARGS": "-k gthread", "WEB_CONCURRENCY": "3"}, ["gunicorn"], 3),
    ],
)
def test_the_last_word_is_the_typed_one(environ, argv, workers):
    """Then gunicorn's variable, then everybody's."""
    assert visible_workers(environ, argv) == workers
