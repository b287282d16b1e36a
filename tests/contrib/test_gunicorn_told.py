"""What can be seen of gunicorn's settings without running them."""

from __future__ import annotations

import pytest

from claude_throttle.contrib import gunicorn_told
from claude_throttle.contrib.gunicorn_told import Workers, gunicorn_workers

UNTOLD = Workers(wait_apart=False, timeout_seconds=30.0, several=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", UNTOLD),
        ("-k gthread", UNTOLD._replace(wait_apart=True)),
        ("--worker-class=gevent", UNTOLD._replace(wait_apart=True)),
        ("-k sync --threads 4", UNTOLD._replace(wait_apart=True)),
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
    ("source", "expected"),
    [
        ("worker_class = 'gthread'", UNTOLD._replace(wait_apart=True)),
        ("import os\nworker_class = os.environ['KIND']", UNTOLD._replace(wait_apart=True)),
        ("threads = 8; timeout = 90", Workers(True, 90.0, False)),
        ("timeout = 60 * 2", UNTOLD._replace(timeout_seconds=0.0)),
        ("workers = multiprocessing.cpu_count() * 2 + 1", UNTOLD._replace(several=True)),
        ("workers = found()", UNTOLD),
        ("raise SystemExit", UNTOLD),
        ("workers = (", UNTOLD),
        ("workers: int = 4\nbind = ':80'", UNTOLD._replace(several=True)),
        ("worker_class = 'gthread'\n", UNTOLD._replace(wait_apart=True)),
    ],
)
def test_a_config_file(tmp_path, source, expected):
    """It is read; what cannot be known is taken for the best."""
    (tmp_path / "gunicorn.conf.py").write_text(source)
    assert gunicorn_workers({}, tmp_path) == expected


def test_who_goes_before_whom(tmp_path):
    """Arguments, the file they name, WEB_CONCURRENCY."""
    (tmp_path / "other.py").write_text("workers = 1\nthreads = 4\n")
    environ = {"WEB_CONCURRENCY": "3"}
    assert gunicorn_workers(environ, tmp_path) == UNTOLD._replace(several=True)
    environ["GUNICORN_CMD_ARGS"] = "-c other.py"
    assert gunicorn_workers(environ, tmp_path) == UNTOLD._replace(wait_apart=True)
    environ["GUNICORN_CMD_ARGS"] = "-c other.py --workers 2 --threads 1"
    assert gunicorn_workers(environ, tmp_path) == UNTOLD._replace(several=True)


def test_where_there_is_no_gunicorn(tmp_path, monkeypatch):
    """There is nothing to say of it."""
    monkeypatch.setattr(gunicorn_told, "find_spec", lambda name: None)
    assert gunicorn_workers({}, tmp_path) is None
    assert gunicorn_workers({"WEB_CONCURRENCY": "2"}, tmp_path) is not None
