"""Settings out of the environment: the SDK's variables with its precedence, and ours."""

from __future__ import annotations

import pytest

from claude_throttle import Throttler
from claude_throttle.config.settings import Settings
from claude_throttle.core.domain.quota import Quota
from claude_throttle.errors import ConfigurationError

ENV = {"ANTHROPIC_API_KEY": "env-key", "ANTHROPIC_AUTH_TOKEN": "env-token"}


def told(options=None, **environ):
    return Settings.from_env(options, environ)


def proofs(settings):
    return settings.api_key, settings.auth_token


def test_the_key_is_read_from_the_environment():
    """Or else the token."""
    assert proofs(told(**ENV)) == ("env-key", None)
    assert proofs(told(ANTHROPIC_AUTH_TOKEN="env-token")) == (None, "env-token")
    assert proofs(told(ANTHROPIC_API_KEY="", ANTHROPIC_AUTH_TOKEN="t")) == (None, "t")
    assert proofs(told()) == (None, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"api_key": "mine"}, ("mine", None)), ({"auth_token": "mine"}, (None, "mine"))],
)
def test_what_is_given_keeps_both_variables_out(options, expected):
    """A key of one account and a token of another must not meet."""
    assert proofs(told(options, **ENV)) == expected


def test_none_leaves_it_to_the_environment():
    """As in the SDK: Throttler(api_key=config.get("key")) with no key there."""
    assert proofs(told({"api_key": None}, **ENV)) == ("env-key", None)


def test_a_spoilt_key_in_the_environment_is_not_shown():
    """It is the usual place for a pasted line break."""
    with pytest.raises(ConfigurationError, match="api_key holds") as caught:
        told(ANTHROPIC_API_KEY="sk-ant-\nsecret")
    assert "secret" not in str(caught.value)


def test_the_address_is_read_from_the_environment():
    """An option goes before it; an empty variable is none."""
    assert told(ANTHROPIC_BASE_URL="https://gate.example/").base_url == "https://gate.example"
    option = {"base_url": "https://mine.example"}
    assert told(option, ANTHROPIC_BASE_URL="https://x").base_url == "https://mine.example"
    assert told(ANTHROPIC_BASE_URL="").base_url == "https://api.anthropic.com"


def test_headers_are_lines_of_name_and_value():
    """As the SDK reads them; lines without a colon are skipped."""
    headers = told(ANTHROPIC_CUSTOM_HEADERS="X-A: 1\n\n X-B :http://x:5 \nnonsense").default_headers
    assert headers == {"X-A": "1", "X-B": "http://x:5"}
    assert told({"default_headers": {}}, ANTHROPIC_CUSTOM_HEADERS="X-A: 1").default_headers == {}


def test_the_ca_bundle_is_the_one_requests_uses(tmp_path):
    """REQUESTS_CA_BUNDLE before CURL_CA_BUNDLE, an option before both."""
    requests, curl, mine = (str(tmp_path / name) for name in ("r.pem", "c.pem", "m.pem"))
    for path in (requests, curl, mine):
        open(path, "w").close()
    both = {"REQUESTS_CA_BUNDLE": requests, "CURL_CA_BUNDLE": curl}
    assert told(**both).ca_bundle == requests
    assert told(CURL_CA_BUNDLE=curl).ca_bundle == curl
    assert told({"ca_bundle": mine}, **both).ca_bundle == mine


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[(n, "12.5", Quota(12.5)) for n in ("rpm", "itpm", "otpm", "tpm")],
        *[(n, "1e3", Quota(1000.0, per=86_400.0)) for n in ("rpd", "tpd")],
        ("headroom", "0.1", 0.1),
        ("timeout", "30", 30.0),
        ("burst", "3", 3),
        ("max_concurrency", " 4 ", 4),
        ("max_queue", "5", 5),
        ("max_retries", "0", 0),
        ("retry_read_timeouts", "true", True),
        ("retry_resets", "0", False),
        ("retry_resets", " False ", False),
        ("allow_insecure", "1", True),
        ("api_version", "2025-01-01", "2025-01-01"),
        ("platform", "bedrock", "bedrock"),
    ],
)
def test_each_of_our_settings_has_a_variable(name, text, value):
    """CLAUDE_THROTTLE_<SETTING>; an option goes before it, an empty variable is none."""
    variable = f"CLAUDE_THROTTLE_{name.upper()}"
    assert getattr(told(**{variable: text}), name) == value
    assert getattr(told(**{variable: ""}), name) == getattr(Settings(), name)
    default = getattr(Settings(), name)
    assert getattr(told({name: default}, **{variable: text}), name) == default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rpm", "fifty"),
        ("rpm", "nan"),
        ("rpm", "0"),
        ("headroom", "10%"),
        ("burst", "1.5"),
        ("max_queue", "1e3"),
        ("max_retries", "-1"),
        ("timeout", "inf"),
        ("retry_resets", "yes"),
        ("allow_insecure", "2"),
    ],
)
def test_a_variable_that_cannot_work_is_refused_by_name(name, text):
    """Not ignored: who set it believes in it."""
    with pytest.raises(ConfigurationError, match=f"(?i){name}"):
        told(**{f"CLAUDE_THROTTLE_{name.upper()}": text})


def test_the_constructor_reads_the_real_environment(monkeypatch):
    """Throttler(rpm=…) fills in the rest; given Settings it does not look."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "env-key")
    monkeypatch.setenv("CLAUDE_THROTTLE_MAX_QUEUE", "7")
    made = Throttler(rpm=5).settings
    assert (made.api_key, made.max_queue, made.rpm) == ("env-key", 7, Quota(5))
    made = Throttler(Settings(api_key="mine"), rpm=6).settings
    assert (made.api_key, made.max_queue, made.rpm) == ("mine", 100_000, Quota(6))
