"""What a newcomer meets in the first hour: each refusal names the line to write.

Nothing here is sent: each mistake is found before.
"""

from __future__ import annotations

import anthropic
import pytest
import requests

from claude_throttle import ConfigurationError, InvalidCall, Settings, Throttler
from tests.support.calls import HELLO, KEY
from tests.support.httpx_libraries import INSTALLED, library
from tests.support.sdk_releases import CAPABILITIES

URL = "https://api.anthropic.com/v1/messages"
MESSAGES = HELLO["messages"]

#: What a whole call looks like.
A_CALL = 'model="claude-haiku-4-5", max_tokens=1_000, messages=[{"role": "user", "content": "…"}])'
MIDDLEWARE = "anthropic.Anthropic(middleware=[throttler.middleware()])"
TRANSPORT = "httpx.Client(transport=throttler.transport())"
CALL_IT = "is a method: call it, with all arguments by name, as in"


@pytest.fixture
def throttler():
    with Throttler(api_key=KEY, rpm=60) as made:
        yield made


def call(**changes):
    """A call of which something is wrong."""
    request = {**HELLO, **changes}
    return lambda t: t.call(**{k: v for k, v in request.items() if v is not ...})


def sdk(make):
    """A request by the SDK with that middleware."""

    def ask(throttler):
        with anthropic.Anthropic(api_key=KEY, middleware=make(throttler)) as client:
            client.messages.create(**HELLO)

    return ask


def http_client(make):
    """The SDK with that in place of its client."""
    return lambda throttler: anthropic.Anthropic(api_key=KEY, http_client=make(throttler))


def in_session(make):
    """A request by a session of requests with that adapter."""

    def ask(throttler):
        session = requests.Session()
        session.mount("https://api.anthropic.com", make(throttler))
        session.post(URL, json=HELLO, timeout=10)

    return ask


def in_httpx(make):
    """A request by a client of httpx with that transport."""

    def ask(throttler):
        library(INSTALLED[0]).Client(transport=make(throttler)).post(URL, json=HELLO)

    return ask


SETTINGS = [
    (lambda t: Throttler("sk-ant-secret"), ConfigurationError, "write Throttler(api_key=…)"),
    (lambda t: Throttler(50), ConfigurationError, "write Throttler(rpm=…)"),
    (lambda t: Throttler({"rpm": 50}), ConfigurationError, "write Throttler(**settings)"),
    (lambda t: Throttler(requests.Session()), ConfigurationError, MIDDLEWARE),
    (lambda t: Throttler(client=1), ConfigurationError, MIDDLEWARE),
    (lambda t: Throttler(requests_per_minute=60), TypeError, "did you mean rpm=?"),
    (lambda t: Throttler(model="m"), TypeError, "throttler.call(model=…"),
    (lambda t: Throttler(on_event="f"), ConfigurationError, "a function that takes an event"),
    (lambda t: Throttler(rpm="50"), ConfigurationError, "rpm=50, or rpm=Quota(50, per=60)"),
    (lambda t: Throttler(rpm=0), ConfigurationError, "leave it out for no limit"),
    (lambda t: Throttler(api_key=""), ConfigurationError, "leave it out"),
    (lambda t: Throttler(tier="free"), ConfigurationError, "tier must be one of"),
    (lambda t: Throttler(shared="/tmp/x.db"), ConfigurationError, 'shared="sqlite:////var/'),
    (lambda t: Throttler(base_url="api.anthropic.com"), ConfigurationError, "https://"),
    (lambda t: Throttler().call(**HELLO), ConfigurationError, "set ANTHROPIC_API_KEY, or give"),
    (lambda t: t.reconfigure(max_workers=5), TypeError, "did you mean max_concurrency=?"),
    (lambda t: Settings.from_env({"on_event": 1}), TypeError, "Throttler(settings, on_event=…)"),
]

CALLS = [
    (lambda t: t.submit("hello"), TypeError, f"throttler.submit({A_CALL}"),
    (lambda t: t.call("hello"), TypeError, f"throttler.call({A_CALL}"),
    (lambda t: t.stream("hello"), TypeError, f"throttler.stream({A_CALL}"),
    (lambda t: t.call(HELLO), TypeError, "throttler.call(**request)"),
    (lambda t: t.call(), InvalidCall, f"model= is missing: write {A_CALL[:-1]}"),
    (call(prompt="secret"), InvalidCall, 'write messages=[{"role": "user", "content": "…"}]'),
    (call(messages=..., question="x"), InvalidCall, 'write messages=[{"role": "user", "cont'),
    (call(messages=..., message="x"), InvalidCall, "messages= in place of message="),
    (call(max_tokens=...), InvalidCall, "max_tokens= is missing: write max_tokens=1_000"),
    (call(model=...), InvalidCall, 'model= is missing: write model="claude-haiku-4-5"'),
    (call(model=None), InvalidCall, 'as "claude-haiku-4-5", not None'),
    (call(model=5), InvalidCall, 'as "claude-haiku-4-5", not 5'),
    (call(max_tokens="9"), InvalidCall, "a whole number from 1, not '9'"),
    (call(messages="secret"), InvalidCall, 'messages=[{"role": "user", "content": "…"}]'),
    (call(messages=MESSAGES[0]), InvalidCall, 'messages=[{"role": "user", "content": "…"}]'),
    (call(messages=["secret"]), InvalidCall, 'write {"role": "user", "content": "…"}'),
    (call(stream=True), InvalidCall, "use throttler.stream(…)"),
    (call(priority="high"), InvalidCall, '"interactive", "normal", "batch"'),
    (call(api_key="sk-secret"), InvalidCall, "write Throttler(api_key=…)"),
    (call(timeout="5"), ConfigurationError, "a positive number of seconds"),
    (lambda t: list(t.map("hello")), InvalidCall, "one for each call: [{…}, {…}]"),
]

UNCALLED = [
    (sdk(lambda t: [t.middleware]), TypeError, f"middleware {CALL_IT} {MIDDLEWARE}"),
    (sdk(lambda t: t.middleware()), TypeError, f"takes a list: write {MIDDLEWARE}"),
    (sdk(lambda t: [t.adapter()]), TypeError, MIDDLEWARE),
    (in_session(lambda t: t.adapter), TypeError, f"adapter {CALL_IT}"),
    (in_session(lambda t: t.transport), TypeError, f"transport {CALL_IT}"),
    (in_session(lambda t: t), AttributeError, "throttler.mount(session)"),
    (in_session(lambda t: t.transport()), TypeError, "throttler.mount(session)"),
    (in_httpx(lambda t: t.transport), TypeError, f"transport {CALL_IT} {TRANSPORT}"),
    (in_httpx(lambda t: t.adapter), TypeError, f"adapter {CALL_IT}"),
    (in_httpx(lambda t: t), AttributeError, f"write {TRANSPORT}"),
    (http_client(lambda t: t.transport()), AttributeError, f"http_client={TRANSPORT}"),
    (http_client(lambda t: t.adapter()), AttributeError, f"http_client={TRANSPORT}"),
    (http_client(lambda t: t.middleware()), AttributeError, f"http_client={TRANSPORT}"),
    (http_client(lambda t: t), AttributeError, f"http_client={TRANSPORT}"),
    (lambda t: t.session.post(URL), TypeError, f"session {CALL_IT}"),
    (lambda t: t.session(requests.Session()), TypeError, "throttler.mount(session)"),
    (lambda t: t.permit("m"), TypeError, "with throttler.permit(model=…, max_tokens=…) as permit"),
    (lambda t: t.permit.settle(), TypeError, "with throttler.permit(model=…, max_tokens=…) as"),
    (lambda t: t.permit(model=5), InvalidCall, 'as "claude-haiku-4-5", not int'),
    (lambda t: t.permit(model="m", max_tokens=-1), ValueError, "max_tokens= must be a number"),
    (lambda t: t.stats.sent(), TypeError, "as in throttler.stats()"),
    (lambda t: t.mount(requests), ConfigurationError, "throttler.mount(session)"),
]

ATTRIBUTES = [
    ("messages", f"write throttler.call({A_CALL}"),
    ("chat", f"write throttler.call({A_CALL}"),
    ("acquire", "with throttler.permit("),
    ("limit", "with throttler.permit("),
    ("run", "future = throttler.submit("),
    ("gather", "throttler.map(requests)"),
    ("shutdown", "throttler.drain(), or throttler.close()"),
    ("usage", "print(throttler.stats())"),
    ("rpm", "throttler.settings.rpm, throttler.reconfigure(rpm=…)"),
    ("base_url", "throttler.settings.base_url"),
    ("timeout", f"http_client={TRANSPORT}"),
    ("client", MIDDLEWARE),
]


TABLES = {"settings": SETTINGS, "calls": CALLS}
if CAPABILITIES["middleware"]:
    TABLES["uncalled"] = UNCALLED


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_refusal_names_the_line_to_write(throttler, table):
    """And quotes neither a key nor a prompt."""
    for wrong, kind, line in table:
        with pytest.raises(kind) as caught:
            wrong(throttler)
        assert line in str(caught.value)
        assert "secret" not in str(caught.value)
    assert throttler.stats().sent == 0


def test_what_a_throttler_has_not_names_what_does_it(throttler):
    """Names of the SDK, of rate limiters and of executors."""
    for name, line in ATTRIBUTES:
        with pytest.raises(AttributeError) as caught:
            getattr(throttler, name)
        assert line in str(caught.value)
    assert not hasattr(throttler, "nonsense")


def test_a_future_is_no_message(throttler):
    """``submit(…).content`` says what to write; another attribute is just not there."""
    throttler.pause()
    future = throttler.submit(**HELLO)
    future.cancel()
    with pytest.raises(AttributeError, match=r"write future\.result\(\)\.content, or use call"):
        future.content  # noqa: B018 - read for its error
    assert not hasattr(future, "nonsense")


def test_the_sdks_methods_of_batches_name_ours(throttler):
    """``create`` is ``submit`` here."""
    with pytest.raises(AttributeError, match=r"write throttler\.batches\.submit\(requests\)"):
        throttler.batches.create(requests=[])


def test_a_wrong_time_to_close_leaves_it_open(throttler):
    """It did nothing, so calls go on."""
    for end in (throttler.close, throttler.drain):
        with pytest.raises(TypeError):
            end(timeout="30")
    assert not throttler.closed
