"""Views that stream: a visitor who goes away ends the stream, and frees its place."""

from __future__ import annotations

import anthropic
import pytest
from flask import Response, stream_with_context

from claude_throttle.contrib.flask import current_throttler
from tests.support.calls import KEY, ask
from tests.support.needs import needs
from tests.support.waiting import wait_until


def opened_first():
    stream = current_throttler.stream(**ask("one two three four"))
    response = Response(stream_with_context(stream.text_stream))
    response.call_on_close(stream.close)
    return response


def opened_in_the_generator():
    def words():
        with current_throttler.stream(**ask("one two three four")) as stream:
            yield from stream.text_stream

    return Response(stream_with_context(words()))


def opened_without_a_context():
    def events():
        with current_throttler.stream(**ask("one two three four")) as stream:
            for event in stream:
                yield f"event: {event['type']}\n\n"

    return Response(events(), mimetype="text/event-stream")


def handed_over():
    return Response(current_throttler.stream(**ask("one two three four")).text_stream)


@needs("middleware")
def by_the_sdk():
    client = anthropic.Anthropic(
        api_key=KEY,
        base_url=current_throttler.settings.base_url,
        middleware=[current_throttler.middleware()],
    )
    request = {k: v for k, v in ask("one two three four").items() if k != "raw"}

    def words():
        with client.messages.stream(**request) as stream:
            yield from stream.text_stream

    return Response(words())


VIEWS = (
    opened_first,
    opened_in_the_generator,
    opened_without_a_context,
    handed_over,
    by_the_sdk,
)


@pytest.mark.parametrize("view", VIEWS)
def test_a_visitor_who_goes_away_frees_the_place(asking_app, view):
    app = asking_app()
    app.add_url_rule("/words", "words", view)
    throttler = app.claude.throttlers(app)["default"]
    response = app.test_client().get("/words", buffered=False)
    assert next(iter(response.response))
    assert throttler.limits().in_flight == 1
    response.close()
    del response
    wait_until(lambda: throttler.limits().in_flight == 0)
