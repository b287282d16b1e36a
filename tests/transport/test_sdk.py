"""The official SDK's own classes, on whichever release is installed."""

from __future__ import annotations

import importlib
import json
import pickle

import anthropic
import pytest

from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import SPEND_CODES
from tests.support.sdk_releases import error_class, text_block

URL = "https://api.anthropic.com/v1/messages"
HEADERS = {
    "Request-Id": "req_1",
    "Retry-After": "7",
    "Set-Cookie": "__cf_bm=secret-cookie",
    "anthropic-workspace-id": "wrk_1",
}

CODES = [
    *sorted(SPEND_CODES),
    "ramp_limit_exceeded",
    "cmek_key_disabled",
    "cmek_key_unreachable",
    "request_body_encoding_invalid",
    "compaction_unavailable",
    "no_such_code",
    "ÄÖ",
    "_",
]


def body(code=None, message="no"):
    return {
        "type": "error",
        "error": {"type": "x", "message": message, "details": {"error_code": code}},
    }


def refusal(status=429, code=None, answer=None, content=None):
    answer = body(code) if answer is None and content is None else answer
    content = json.dumps(answer).encode() if content is None else content
    return sdk.status_error(URL, status, HEADERS, content, answer)


@pytest.fixture(scope="module")
def client():
    with anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:1") as made:
        yield made


def of_the_sdk(client, status, code=None):
    """The class its own client would raise."""
    response = sdk.RefusedResponse(URL, status, HEADERS, b"")
    return type(client._make_status_error("x", body=body(code), response=response))


def differing(client, pairs):
    """Those which an ``except`` clause written for the SDK would not catch, or catch wrongly."""
    wanted = {pair: of_the_sdk(client, *pair) for pair in pairs}
    raised = {pair: type(refusal(*pair)) for pair in pairs}
    return {
        pair: (wanted[pair].__name__, raised[pair].__name__)
        for pair in pairs
        if wanted[pair].__name__ != raised[pair].__name__
        or not issubclass(raised[pair], wanted[pair])
    }


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "RequestTooLargeError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (502, "InternalServerError"),
        (529, "OverloadedError"),
        (302, "APIStatusError"),
        (418, "APIStatusError"),
    ],
)
def test_existing_except_clauses_keep_working(status, name):
    """The classes that every release shows, or the nearest base of what it lacks."""
    error = refusal(status)
    assert isinstance(error, error_class(name))
    assert isinstance(error, anthropic.APIStatusError)
    assert error.status_code == status


def test_every_status_raises_what_the_sdks_client_raises(client):
    """The same class, not only a relative of it."""
    assert differing(client, [(status, None) for status in range(400, 600)]) == {}


def test_an_error_code_raises_what_the_sdks_client_raises(client):
    """Where the release knows the code for that very status; else the class of the status."""
    pairs = [(status, code) for status in (400, 402, 429, 503, 529) for code in CODES]
    assert differing(client, pairs) == {}


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (429, "enforced_spend_limit_reached", "EnforcedSpendLimitReachedError"),
        (429, "contract_spend_limit_reached", "ContractSpendLimitReachedError"),
        (429, "ramp_limit_exceeded", "RampLimitExceededError"),
        (400, "organization_on_hold", "OrganizationOnHoldError"),
    ],
)
def test_a_code_of_the_messages_api_has_its_own_class(status, code, name):
    """On releases that have it; on older ones it is the class of the status."""
    by_status = {429: anthropic.RateLimitError, 400: anthropic.BadRequestError}[status]
    expected = getattr(anthropic, name, by_status)
    assert type(refusal(status, code)).__name__ == expected.__name__
    assert isinstance(refusal(status, code), by_status)


def test_an_error_says_what_the_server_said():
    """As the SDK words it, with everything it carries."""
    error = refusal(429, "ramp_limit_exceeded")
    assert str(error) == error.message == f"Error code: 429 - {body('ramp_limit_exceeded')}"
    assert error.body == body("ramp_limit_exceeded")
    assert error.request_id == "req_1"


@pytest.mark.parametrize(
    ("content", "shown"),
    [(b"<html>gone</html>", "<html>gone</html>"), (b"", "no body"), (b"\xff" * 3, "\ufffd" * 3)],
)
def test_a_body_that_is_no_json_is_shown_as_text(content, shown):
    """A proxy's page helps, too; a long one is cut."""
    error = refusal(502, content=content)
    assert str(error) == f"Error code: 502 - {shown}"
    assert error.body == content.decode("utf-8", "replace")
    assert len(str(refusal(502, content=b"x" * 10_000))) < 600


def test_the_stand_in_response_can_be_asked_like_a_real_one():
    """Status, headers in any case, body; no cookies, and a request without headers or body."""
    response = refusal(429).response
    assert (response.status_code, response.json()) == (429, body())
    assert json.loads(response.text) == body()
    assert response.headers["RETRY-AFTER"] == response.headers.get("retry-after") == "7"
    assert "Request-ID" in response.headers
    assert 5 not in response.headers
    assert response.headers.get("x-none", "none") == "none"
    assert "set-cookie" not in response.headers
    request = response.request
    assert (request.method, request.url, request.headers, request.content) == ("POST", URL, {}, b"")
    assert repr(response) == "<RefusedResponse [429]>"
    assert repr(request) == f"<RefusedRequest POST {URL}>"


ERRORS = {
    "rate limit": lambda: refusal(429),
    "ramp limit": lambda: refusal(429, "ramp_limit_exceeded"),
    "spend limit": lambda: refusal(429, "enforced_spend_limit_reached"),
    "bad key": lambda: refusal(401),
    "redirect": lambda: refusal(302, content=b""),
    "overloaded": lambda: refusal(529),
    "connection": lambda: sdk.connection_error(URL, "gone"),
    "timeout": lambda: sdk.timeout_error(URL, "too late"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_every_error_survives_a_pickle(name, protocol):
    """Celery and multiprocessing send them; they come back as what they were."""
    error = ERRORS[name]()
    back = pickle.loads(pickle.dumps(error, protocol))
    again = pickle.loads(pickle.dumps(back, protocol))
    for copy in (back, again):
        assert type(copy) is type(error)
        assert (str(copy), copy.args, copy.body) == (str(error), error.args, error.body)
        assert vars(copy).keys() == vars(error).keys()
    if isinstance(error, anthropic.APIStatusError):
        assert again.response.headers == error.response.headers
        assert again.response.content == error.response.content
        assert again.status_code == error.status_code


@pytest.mark.parametrize("name", ERRORS)
def test_no_pickle_holds_a_cookie(name):
    """What a proxy in front of the API sets is nobody's business."""
    error = ERRORS[name]()
    assert b"secret-cookie" not in pickle.dumps(error)
    assert "secret-cookie" not in repr(error) + str(error) + repr(vars(error))


def test_a_connection_error_is_the_sdks():
    """With our words, and a request that holds nothing."""
    error = sdk.connection_error(URL, "no connection after 3 attempts")
    assert isinstance(error, anthropic.APIConnectionError)
    assert not isinstance(error, anthropic.APITimeoutError)
    assert str(error) == error.message == "no connection after 3 attempts"
    assert (error.request.url, error.request.headers) == (URL, {})


def test_a_timeout_error_is_the_sdks():
    """It is a connection error, too, as in the SDK."""
    error = sdk.timeout_error(URL, "no answer in time")
    assert isinstance(error, anthropic.APITimeoutError)
    assert isinstance(error, anthropic.APIConnectionError)
    assert str(error) == error.message == "no answer in time"
    assert error.request.url == URL


# -- messages --------------------------------------------------------------------------------------

ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "text", "text": "hi", "citations": None},
        {"type": "hologram", "voxels": [1, 2], "text": "unknown"},
    ],
    "stop_reason": "a_reason_of_tomorrow",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 2, "kilowatts": 3},
    "mood": "good",
}


def test_a_message_is_the_sdks():
    """Typed where the release knows the type."""
    message = sdk.build_message(json.loads(json.dumps(ANSWER)), "req_5")
    assert isinstance(message, anthropic.types.Message)
    assert isinstance(message.content[0], text_block())
    assert isinstance(message.usage, anthropic.types.Usage)
    assert (message.content[0].text, message.usage.output_tokens) == ("hi", 2)
    assert message._request_id == "req_5"


def test_what_the_release_does_not_know_survives():
    """Unknown fields, block types and stop reasons: nothing the server said is lost."""
    message = sdk.build_message(json.loads(json.dumps(ANSWER)), None)
    assert message.mood == "good"
    assert message.usage.kilowatts == 3
    assert (message.content[1].type, message.content[1].voxels) == ("hologram", [1, 2])
    assert message.stop_reason == "a_reason_of_tomorrow"
    assert sdk.message_fields(message) == ANSWER


def test_a_message_that_lacks_fields_is_still_one():
    """Lenient construction, as the SDK's own."""
    message = sdk.build_message({"type": "message", "content": []}, None)
    assert message.content == []
    assert isinstance(message, anthropic.types.Message)


BLOCKS = [
    {"type": "text", "text": "hi"},
    {"type": "text", "text": "hi", "citations": None, "tomorrow": 1},
    {"type": "text", "text": 5},
    {"type": "text"},
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "tool_use", "id": "t", "name": "n", "input": {"a": [1, 2.5, None, True]}},
    {"type": "tool_use", "id": "t", "name": "n", "input": None},
    {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}},
    {"type": "hologram", "voxels": [1, 2]},
    {"text": "no type"},
    "no block at all",
]
USAGES = [
    {"input_tokens": 1, "output_tokens": 2},
    {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 3}},
    {"input_tokens": "1", "output_tokens": 2.0, "kilowatts": 3},
    {"input_tokens": True},
    None,
    7,
]


def shape(value):
    """Classes and values, all the way down."""
    if hasattr(value, "__dict__"):
        inside = {**value.__dict__, **(getattr(value, "__pydantic_extra__", None) or {})}
        inside.pop("__exclude_fields__", None)  # pydantic 1
        return type(value), {name: shape(part) for name, part in inside.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value), value


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_message_is_what_the_sdks_client_would_make_of_it(block, usage):
    """Whether it is valid to the letter, and so made the fast way, or not."""
    for more in ({}, {"stop_reason": "end_turn"}, {"stop_reason": "of tomorrow"}, {"role": 5}):
        answer = {**ANSWER, "content": [block, BLOCKS[0]], "usage": usage, **more}
        made = sdk.build_message(json.loads(json.dumps(answer)), None)
        theirs = anthropic.types.Message.construct(**json.loads(json.dumps(answer)))
        theirs._request_id = None
        assert shape(made) == shape(theirs)
        theirs.__dict__.pop("_request_id")  # pydantic 1 takes it for a field
        assert sdk.message_fields(made) == sdk.message_fields(theirs)


def test_loading_gives_the_module():
    """However often."""
    assert sdk.load() is sdk.load() is importlib.import_module("anthropic")


class OldError(Exception):
    """As releases before 1.0 made them: arguments that a pickle does not know of."""

    def __init__(self, message, *, response):
        super().__init__(message)
        self.response = response


def test_an_error_class_that_cannot_be_pickled_is_helped():
    """By a subclass of the same name, made once; one that can be pickled is left alone."""
    helped = sdk._picklable(OldError)
    error = helped("no", response=5)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.args, back.response) == (helped, ("no",), 5)
    assert issubclass(helped, OldError)
    assert (helped.__name__, helped.__module__) == ("OldError", OldError.__module__)
    assert sdk._picklable(type(refusal(429))) is type(refusal(429))
