"""``flask --app examples/flask_app run``, then ``/?q=Hello``; gunicorn.conf.py is for gunicorn."""

import hmac
import os

from flask import Flask, Response, request, stream_with_context

from claude_throttle.contrib.flask import ClaudeThrottle, current_throttler, current_throttlers

claude = ClaudeThrottle()


def ask(text):
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-haiku-4-5", "max_tokens": 200, "messages": messages}


def create_app():
    app = Flask(__name__)
    app.config["CLAUDE_THROTTLE_MAX_QUEUE"] = 50  # the next visitor gets 503
    # For another workspace with its own limits. With one workspace use priority=Priority.BATCH.
    batch = {"api_key": os.environ.get("BATCH_API_KEY"), "rpm": 600}
    app.config["CLAUDE_THROTTLE_THROTTLERS"] = {"batch": batch}
    app.config.from_prefixed_env()  # FLASK_CLAUDE_THROTTLE_SHARED=sqlite:////tmp/quota.db
    claude.init_app(app)
    app.register_blueprint(claude.status_blueprint(allow=is_staff))
    app.add_url_rule("/", view_func=answer)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/digest", view_func=digest, methods=["POST"])
    return app


def is_staff():  # replace it by your login, for example current_user.is_admin
    given = (request.authorization and request.authorization.password) or ""
    known = os.environ.get("STATUS_PASSWORD", "")
    right = known and hmac.compare_digest(given.encode(), known.encode())
    return right or ("", 401, {"WWW-Authenticate": "Basic"})


def answer():
    """A visitor who would wait for more than ten seconds gets 503 and Retry-After."""
    return current_throttler.call(timeout=10, **ask(request.args["q"])).content[0].text


def stream():
    """The stream is opened before the response begins, so a refusal can still become a 503."""
    opened = current_throttler.stream(timeout=10, **ask(request.args["q"]))
    response = Response(stream_with_context(opened.text_stream), mimetype="text/plain")
    response.call_on_close(opened.close)  # the client may leave before its end
    return response


def digest():
    """Answered at once; the call is finished even if the server is stopped."""
    current_throttlers["batch"].submit(**ask(f"Summarise: {request.get_data(as_text=True)}"))
    return "", 202
