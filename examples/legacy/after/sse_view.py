"""A Flask view that sends an answer as server-sent events, while it is written."""

import json

from claude_throttle import Throttler
from flask import Flask, Response, request

throttler = Throttler()
app = Flask(__name__)


@app.get("/answer")
def answer():
    question = {"role": "user", "content": request.args["question"]}

    def events():
        try:
            with throttler.stream(
                model="claude-haiku-4-5", max_tokens=100, messages=[question]
            ) as stream:
                for event in stream:
                    if event.type == "text":
                        yield f"data: {json.dumps(event.text)}\n\n"
            yield "event: done\ndata: {}\n\n"
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(str(error))}\n\n"

    return Response(events(), mimetype="text/event-stream")
