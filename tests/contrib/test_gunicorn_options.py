"""Gunicorn's workers, as far as its options are known."""

from __future__ import annotations

import pytest

from claude_throttle.contrib import gunicorn_options
from claude_throttle.contrib.gunicorn_options import Workers, gunicorn_workers

UNTOLD = Workers(alive_while_waiting=False, timeout_seconds=30.0, several=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", UNTOLD),
        ("-k gthread", UNTOLD._replace(alive_while_waiting=True)),
        ("--worker-class=gevent", UNTOLD._replace(alive_while_waiting=True)),
        ("-k sync --threads 4", UNTOLD._replace(alive_while_waiting=True)),
        ("--threads 1", UNTOLD),
        ("-w4 -t 90 --bind 0.0.0.0:80", Workers(False, 90.0, True)),
        ("--timeout=0", UNTOLD._replace(timeout_seconds=0.0)),
        ("--workers many", UNTOLD),
        ("--bind 'unclosed", UNTOLD),
        ("--threads", UNTOLD),
    ],
)
def test_arguments(tmp_path, arguments, expected):
    """As gunicorn takes them from the environment."""
    assert gunicorn_workers({"GUNICORN_CMD_ARGS": arguments}, tmp_path) == expected


@pytest.mark.parametrize(
    ("file", "options"), [("gunicorn.conf.py", ""), ("other.py", "-c other.py")]
)
def test_a_config_file_is_not_read(tmp_path, file, options):
    """It may set the kind of worker, so nothing is said of one; what goes before it is known."""
    (tmp_path / file).write_text("raise SystemExit")
    environ = {"GUNICORN_CMD_ARGS": f"{options} --timeout 90 -w 2"}
    assert gunicorn_workers(environ, tmp_path) == Workers(True, 90.0, True)
    assert gunicorn_workers({}, tmp_path.parent) == UNTOLD


def test_arguments_go_before_web_concurrency(tmp_path):
    """Which is for other servers, too."""
    environ = {"WEB_CONCURRENCY": "3"}
    assert gunicorn_workers(environ, tmp_path) == UNTOLD._replace(several=True)
    environ["GUNICORN_CMD_ARGS"] = "--workers 1"
    assert gunicorn_workers(environ, tmp_path) == UNTOLD


def test_where_there_is_no_gunicorn(tmp_path, monkeypatch):
    """There is nothing to say of it."""
    monkeypatch.setattr(gunicorn_options, "find_spec", lambda name: None)
    assert gunicorn_workers({}, tmp_path) is None
    assert gunicorn_workers({"WEB_CONCURRENCY": "2"}, tmp_path) is not None
