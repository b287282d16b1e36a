"""Applications with a ClaudeThrottle; what their throttlers have left is cut at the end."""

from __future__ import annotations

import pytest
from flask import Flask, request

from claude_throttle.contrib.flask import ClaudeThrottle, current_throttlers
from tests.support.calls import KEY, ask


@pytest.fixture
def make_app(tmp_path, monkeypatch):
    """``make_app(RPM=50)`` has that configuration; its ``claude`` is the extension."""
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(name="shop", claude=None, **told):
        app = Flask(name, root_path=str(tmp_path))
        app.config.update({f"CLAUDE_THROTTLE_{key}": value for key, value in told.items()})
        app.claude = claude or ClaudeThrottle()
        app.claude.init_app(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.claude.reset(app)


@pytest.fixture
def asking_app(fake, make_app):
    """``asking_app(**told)`` asks its ``server`` what it is asked at ``/default?text``."""

    def make(server=None, **told):
        server = server or fake()
        address = {"API_KEY": KEY, "BASE_URL": server.url}
        app = make_app(**{**address, "RPM": 1e6, "BURST": 1000, **told})
        app.server = server

        @app.route("/<name>", methods=["GET", "POST"])
        def answer(name):
            told = request.args.to_dict()
            timeout = float(told.get("timeout", 20))
            question = ask(told.get("text", "hello"), timeout=timeout)
            return current_throttlers[name].call(**question)["content"][0]["text"]

        return app

    return make
