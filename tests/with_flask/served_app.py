"""What gunicorn serves here: an application made in a factory, used at import if told so."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request, stream_with_context

from claude_throttle.contrib.flask import ClaudeThrottle, current_throttler
from tests.servers.asking import ask, echo

claude = ClaudeThrottle()
importer = os.getpid()


def create_app() -> Flask:
    """Told by the variables ``FLASK_*``."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config["CLAUDE_THROTTLE_BASE_URL"] = os.environ["FAKE_URL"]
    claude.init_app(app)
    app.add_url_rule("/ask", view_func=answer)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/state", view_func=state)
    return app


def text() -> str:
    """The question."""
    return request.query_string.decode()


def answer() -> dict[str, Any]:
    """All at once."""
    return {
        "pid": os.getpid(),
        "importer": importer,
        "text": echo(current_throttler.call(**ask(text()))),
    }


def stream() -> Response:
    """As it is written; refused while a 503 can still be sent."""
    opened = current_throttler.stream(**ask(text()))
    words = (word + "|" if text() else word for word in opened.text_stream)
    response = Response(stream_with_context(words), mimetype="text/plain")
    response.call_on_close(opened.close)
    return response


def state() -> dict[str, Any]:
    """What is out."""
    stats = current_throttler.stats()
    in_flight = current_throttler.limits().in_flight
    return {"pid": os.getpid(), "in_flight": in_flight, "waiting": stats.waiting}


app = create_app()
if os.environ.get("WARM"):
    with app.app_context():
        current_throttler.call(**ask("warm"))
