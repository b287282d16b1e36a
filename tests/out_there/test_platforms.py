"""Claude on Amazon Bedrock, Google Vertex AI and Microsoft Foundry, by the SDK's own clients."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading

import anthropic
import pytest

from claude_throttle import ConfigurationError, Quota, Settings, Throttler
from claude_throttle.testing import ManualClock
from claude_throttle.transport.usage_reader import UsageReader
from tests.support.calls import KEY, LANE, ask

NEEDS = ["middleware"]

SONNET = "claude-sonnet-4-6"
PROFILE = f"us.anthropic.{SONNET}-20250929-v1:0"

#: Tokens that may leave at once: what was taken is what is missing.
FULL = 1_000_000

USED = {"input_tokens": 10, "output_tokens": 20}

#: Each client of the SDK: its setting, the model as its users write it, its lane, and credentials
#: that need no other package.
CLIENTS = {
    "AnthropicBedrock": ("bedrock", PROFILE, "us.sonnet-4", {"aws_region": "us-east-1"}),
    "AnthropicBedrockMantle": (
        *("bedrock", f"anthropic.{SONNET}", "sonnet-4"),
        {"aws_region": "us-east-1"},
    ),
    "AnthropicVertex": (
        *("vertex", f"{SONNET}@20250929", "sonnet-4"),
        {"region": "us-east5", "project_id": "p", "access_token": "t"},
    ),
    "AnthropicFoundry": ("foundry", "my-sonnet", "my-sonnet", {}),
    "AnthropicAWS": (
        *("anthropic", SONNET, "sonnet-4"),
        {"aws_region": "us-east-1", "workspace_id": "w"},
    ),
    "AnthropicGoogleCloud": (
        *("anthropic", SONNET, "sonnet-4"),
        {"project": "p", "workspace_id": "w", "skip_auth": True},
    ),
}
KINDS = [name for name in CLIENTS if hasattr(anthropic, name)]


class Cloud:
    """A server that answers whatever path a client posts to; *answer* is called meanwhile."""

    def __init__(self):
        self.paths = []
        self.answer = lambda: (200, {}, message())
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                cloud.paths.append(self.path)
                status, headers, body = cloud.answer()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                """Nothing on the terminal."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def message(**used):
    return json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": SONNET,
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {**USED, **used},
        }
    ).encode()


@pytest.fixture(scope="module")
def one_cloud():
    cloud = Cloud()
    yield cloud
    cloud.close()


@pytest.fixture
def cloud(one_cloud):
    one_cloud.__dict__.update(paths=[], answer=lambda: (200, {}, message()))
    return one_cloud


@pytest.fixture
def site(cloud, monkeypatch):
    """``site(kind, **settings)``: a throttler and a client of that kind under its middleware."""
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    with contextlib.ExitStack() as stack:

        def make(kind="AnthropicBedrock", **more):
            platform, _, _, credentials = CLIENTS[kind]
            quota = Quota(FULL, burst=FULL)
            told = {"platform": platform, "itpm": quota, "otpm": quota, "clock": ManualClock()}
            throttler = stack.enter_context(Throttler(**{**told, **more}))
            if not {"access_token", "skip_auth"} & set(credentials):
                credentials = {**credentials, "api_key": "cloud-key"}
            client = getattr(anthropic, kind)(
                base_url=cloud.url,
                max_retries=0,
                middleware=[throttler.middleware()],
                **credentials,
            )
            return throttler, stack.enter_context(client)

        yield make


def taken(throttler, lane):
    """Input and output tokens that are booked in a lane."""
    missing = {quota.kind: FULL - quota.remaining for quota in throttler.limits()[lane].quotas}
    return round(missing["input_tokens"]), round(missing["output_tokens"])


def create(client, model=PROFILE, text="hello", **more):
    messages = [{"role": "user", "content": text}]
    return client.messages.create(model=model, max_tokens=1_000, messages=messages, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_each_client_of_the_sdk_is_paced_in_its_models_lane(kind, cloud, site):
    """Whatever address the client makes of the request below our middleware; no header comes."""
    platform, model, lane, _ = CLIENTS[kind]
    throttler, client = site(kind)
    booked = []
    cloud.answer = lambda: (booked.append(taken(throttler, lane)), (200, {}, message()))[1]
    assert create(client, model).content[0].text == "hi"
    assert len(cloud.paths) == 1
    assert list(throttler.limits()) == [lane]
    assert booked[0][1] == (1_000 if platform == "bedrock" else 500)
    assert taken(throttler, lane) == (10, 20)
    assert throttler.stats().permits_answered == 1


def test_bedrock_reserves_max_tokens_however_short_answers_are(cloud, site):
    """Amazon takes them from the quota at the start, and gives back at the end."""
    throttler, client = site()
    booked = []
    for _ in range(4):
        before = taken(throttler, "us.sonnet-4")[1] if booked else 0
        cloud.answer = lambda at=before: (
            booked.append(taken(throttler, "us.sonnet-4")[1] - at),
            (200, {}, message()),
        )[1]
        create(client)
    assert booked == [1_000] * 4
    assert taken(throttler, "us.sonnet-4") == (40, 80)


def test_bedrock_reserves_what_comes_from_the_cache(cloud, site):
    """And gives it back: it is not counted in the end."""
    throttler, client = site()
    mark = {"cache_control": {"type": "ephemeral"}}
    text = [{"type": "text", "text": "long " * 8_000, **mark}]
    cloud.answer = lambda: (200, {}, message(cache_read_input_tokens=10_000))
    create(client, text=text)
    booked = []
    cloud.answer = lambda: (
        booked.append(taken(throttler, "us.sonnet-4")[0]),
        (200, {}, message(cache_read_input_tokens=10_000)),
    )[1]
    create(client, text=text)
    assert booked[0] > 8_000
    assert taken(throttler, "us.sonnet-4")[0] == 20


def test_a_call_of_ours_reserves_max_tokens_too(fake, throttle, manual):
    """Where base_url is Bedrock's address for the Messages API."""
    booked = []

    def answer(_random, _body):
        booked.append(taken(throttler, LANE)[1])
        return 5

    server = fake(clock=manual, output_tokens=answer)
    quota = Quota(FULL, burst=FULL)
    told = {"rpm": None, "itpm": quota, "otpm": quota, "clock": manual}
    throttler = throttle(server, platform="bedrock", **told)
    throttler.call(**ask())
    throttler.call(**ask())
    assert booked == [100, 105]


@pytest.mark.parametrize(
    ("model", "lane"),
    [
        (f"us.anthropic.{SONNET}-20250929-v1:0", "us.sonnet-4"),
        (f"eu.anthropic.{SONNET}-20250929-v1:0", "eu.sonnet-4"),
        (f"apac.anthropic.{SONNET}-20250929-v1:0", "apac.sonnet-4"),
        (f"global.anthropic.{SONNET}-20250929-v1:0", "global.sonnet-4"),
        ("jp.anthropic.claude-haiku-4-5-20251001-v1:0", "jp.haiku-4-5"),
        ("us-gov.anthropic.claude-opus-5", "us-gov.opus-5"),
        (f"anthropic.{SONNET}-20250929-v1:0", "sonnet-4"),
        ("anthropic.claude-opus-4-6-v1", "opus-4"),
        ("anthropic.claude-opus-4-6-v1:0:200k", "opus-4"),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{PROFILE}", "us.sonnet-4"),
        (f"arn:aws:bedrock:us-east-1::foundation-model/anthropic.{SONNET}", "sonnet-4"),
        *(
            (arn, arn)
            for arn in (
                "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3",
                "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/xyz",
            )
        ),
        (f"{SONNET}@20250929", "sonnet-4"),
        (f"publishers/anthropic/models/{SONNET}@default", "sonnet-4"),
        ("my-deployment", "my-deployment"),
        (f"{SONNET}-2", f"{SONNET}-2"),
    ],
)
def test_each_spelling_finds_its_lane(model, lane, one_throttler):
    """A profile's region has a lane of its own, an unknown name is one by itself."""
    with one_throttler.permit(model=model):
        assert one_throttler.limits()[lane].quotas


@pytest.fixture(scope="module")
def one_throttler():
    with Throttler(platform="bedrock", rpm=600_000, burst=100, clock=ManualClock()) as throttler:
        yield throttler


def test_a_region_that_is_used_up_holds_up_no_other(site):
    """Each has its own quota, so each gets the whole of what was told."""
    throttler, client = site(otpm=Quota(1_000, burst=1_000))
    create(client)
    messages = [{"role": "user", "content": "hello"}]
    call = {"max_tokens": 1_000, "messages": messages}
    assert throttler.estimate_wait(model=PROFILE, **call) > 0
    assert throttler.estimate_wait(model=PROFILE.replace("us.", "eu."), **call) == 0


# -- Amazon's event stream -------------------------------------------------------------------------


def frame(event):
    """An event as Bedrock streams it; the checksums are not looked at."""
    data = base64.b64encode(json.dumps(event).encode()).decode()
    payload = json.dumps({"bytes": data, "p": "abcd"}).encode()
    headers = b"\x0b:event-type\x07\x00\x05chunk"
    length = 12 + len(headers) + len(payload) + 4
    return b"".join(
        [
            length.to_bytes(4, "big"),
            len(headers).to_bytes(4, "big"),
            b"\0\0\0\0",
            headers,
            payload,
            b"\0\0\0\0",
        ]
    )


def frames():
    start = json.loads(message(output_tokens=1))
    delta = {"type": "text_delta", "text": "hi"}
    return b"".join(
        frame(event)
        for event in (
            {"type": "message_start", "message": {**start, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}},
            {"type": "message_stop", "amazon-bedrock-invocationMetrics": {}},
        )
    )


FRAMES = {"content-type": "application/vnd.amazon.eventstream"}


def test_a_stream_of_bedrock_gives_back_at_its_end(cloud, site):
    """Its frames are read as they pass."""
    throttler, client = site()
    cloud.answer = lambda: (200, FRAMES, frames())
    streaming = client.messages.with_streaming_response
    messages = [{"role": "user", "content": "hello"}]
    call = {"model": PROFILE, "max_tokens": 1_000, "messages": messages, "stream": True}
    with streaming.create(**call) as response:
        assert cloud.paths[0].endswith("/invoke-with-response-stream")
        assert taken(throttler, "us.sonnet-4")[1] == 1_000
        assert b"".join(response.iter_bytes()) == frames()
    assert taken(throttler, "us.sonnet-4") == (10, 20)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_frames_are_read_however_they_are_cut(size):
    """A chunk of the network knows nothing of them."""
    reader, body = UsageReader(FRAMES), frames()
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    reader.end()
    assert reader.whole
    assert reader.usage[:2] == (10, 20)


ODD = {
    "cut off": frames()[:-30],
    "no frames at all": b'{"message": "Too many requests"}' * 40,
    "a length that cannot be": b"\xff" * 4 + frames(),
    "a length of nothing": b"\0" * 64,
    "headers longer than the frame": b"\0\0\0\x10\xff\xff\xff\xff" + b"\0" * 40,
    "no base64": b"\0\0\0\x1b\0\0\0\0\0\0\0\0" + b'{"bytes":"\xff"}' + b"\0" * 9,
    "empty": b"",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_frames_are_an_unknown_usage_and_never_an_error(kind):
    """The permit keeps its estimate."""
    reader = UsageReader(FRAMES)
    reader.feed(ODD[kind])
    reader.end()
    assert not reader.whole


# -- the setting -----------------------------------------------------------------------------------


def test_a_platform_is_one_of_four():
    """As an option or a variable; the message names them."""
    assert Settings().platform == "anthropic"
    for name in ("anthropic", "bedrock", "vertex", "foundry"):
        assert Settings.from_env({}, {"CLAUDE_THROTTLE_PLATFORM": name}).platform == name
    for wrong in ("Bedrock", "aws", "", None, 5):
        with pytest.raises(ConfigurationError, match=r'"bedrock" or "vertex" or "foundry"'):
            Settings(platform=wrong)
    with pytest.raises(ConfigurationError, match="platform"):
        Settings.from_env({}, {"CLAUDE_THROTTLE_PLATFORM": "azure"})


@pytest.mark.parametrize("platform", ["bedrock", "vertex", "foundry"])
def test_calls_of_ours_are_not_sent_to_the_claude_api_for_a_cloud(platform):
    """With and without a key: the model ids and the quotas are the cloud's."""
    for key in (None, KEY):
        with Throttler(api_key=key, platform=platform) as throttler:
            assert platform in repr(throttler)
            with pytest.raises(ConfigurationError, match="throttler.middleware"):
                throttler.call(**ask())


def test_a_tier_is_of_the_claude_api():
    """It would promise limits that the cloud does not give."""
    with pytest.raises(ConfigurationError, match="tier is of the Claude API"):
        Settings(platform="bedrock", tier="build")
    assert Settings(platform="anthropic", tier="build").tier == "build"


def test_foundry_takes_calls_of_ours_at_its_own_address(fake, throttle):
    """It speaks the Messages API."""
    server = fake()
    throttler = throttle(server, platform="foundry")
    assert throttler.call(**ask())["content"]


def test_an_admin_key_of_the_claude_api_tells_nothing_of_a_cloud(fake, throttle):
    """Its limits are another's: nobody asks."""
    server = fake()
    throttler = throttle(server, platform="foundry", admin_key=KEY)
    throttler.call(**ask())
    assert {arrival.path for arrival in server.other_arrivals} == set()


# -- refusals --------------------------------------------------------------------------------------

VERTEX = {
    "code": 429,
    "message": "Quota exceeded for aiplatform.googleapis.com/online_prediction_input_tokens_per_"
    "minute_per_base_model with base model: anthropic-claude-sonnet-4-6.",
    "status": "RESOURCE_EXHAUSTED",
}
REFUSALS = {
    "AnthropicBedrock: tokens": (
        {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/"},
        {"message": "Too many tokens, please wait before trying again."},
    ),
    "AnthropicBedrock: requests": (
        {"x-amzn-errortype": "ThrottlingException"},
        {"message": "Too many requests, please wait before trying again."},
    ),
    "AnthropicVertex: an object": ({}, {"error": VERTEX}),
    "AnthropicVertex: a list": ({}, [{"error": VERTEX}]),
    "AnthropicVertex: with a delay": (
        {},
        {"error": {**VERTEX, "details": [{"@type": "t/RetryInfo", "retryDelay": "13s"}]}},
    ),
    "AnthropicFoundry: milliseconds": (
        {"retry-after-ms": "1500", "retry-after": "2"},
        {"error": {"code": "RateLimitReached", "message": "Your requests exceeded the limit."}},
    ),
    "AnthropicFoundry: in words": (
        {},
        {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 5 seconds."},
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_clouds_429_slows_its_lane_and_no_other(kind, cloud, site):
    """In its own words, mostly without a time."""
    name = kind.partition(":")[0]
    _, model, lane, _ = CLIENTS[name]
    throttler, client = site(name)
    headers, body = REFUSALS[kind]
    cloud.answer = lambda: (429, headers, json.dumps(body).encode())
    with pytest.raises(anthropic.RateLimitError):
        create(client, model)
    assert taken(throttler, lane) == (0, 0)
    assert throttler.estimate_wait(**ask(model=model)) > 0
    assert throttler.limits()[lane].suspended is None
    assert throttler.estimate_wait(**ask()) == 0


DENIED = {
    "AnthropicBedrock: 403": (403, {"message": "User: arn is not authorized to perform this."}),
    "AnthropicBedrock: 400": (400, {"message": "The provided model identifier is invalid."}),
    "AnthropicVertex: 403": (403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}),
    "AnthropicVertex: 404": (404, {"error": {"code": 404, "status": "NOT_FOUND"}}),
    "AnthropicFoundry: 401": (401, {"error": {"code": "401", "message": "Access denied."}}),
}


@pytest.mark.parametrize("kind", DENIED)
def test_what_a_cloud_denies_to_one_request_holds_up_no_other(kind, cloud, site):
    """One model or one role may be missing; nothing says that the account is refused."""
    name = kind.partition(":")[0]
    _, model, lane, _ = CLIENTS[name]
    throttler, client = site(name)
    status, body = DENIED[kind]
    cloud.answer = lambda: (status, {}, json.dumps(body).encode())
    with pytest.raises(anthropic.APIStatusError):
        create(client, model)
    assert throttler.limits()[lane].suspended is None
    cloud.answer = lambda: (200, {}, message())
    assert create(client, model).content
