"""Settings: what is accepted, what is refused and in which words, and where it comes from."""

from __future__ import annotations

import ast
import dataclasses
import math
from pathlib import Path

import pytest

from claude_throttle.config import settings as module
from claude_throttle.config.settings import FIELDS, QUOTAS, Settings
from claude_throttle.config.validation import require_timeout
from claude_throttle.core.domain.quota import Quota
from claude_throttle.errors import ConfigurationError, UnknownSetting

KEY = "sk-ant-secret-0123456789"

BAD_NUMBERS = [0, -1, math.nan, math.inf, "50", True, [50]]

BAD = [
    *[(name, value) for name in QUOTAS for value in BAD_NUMBERS],
    *[("burst", value) for value in (0, -1, 1.5, "1", True, "full")],
    *[("max_queue", value) for value in (0, -1, 1.5, "1", True, "full")],
    *[("max_retries", value) for value in (-1, 101, 1.5, "1", True, None)],
    *[("max_concurrency", value) for value in (0, -1, 1.5, "1", True)],
    *[("headroom", value) for value in (-0.1, 1, 0.991, math.nan, "0.5", True, None)],
    *[("timeout", value) for value in (0, -1, math.nan, math.inf, "5", True)],
    *[("api_key", value) for value in ("", "  ", 5, b"sk")],
    *[("auth_token", value) for value in ("", "  ", 5, b"sk")],
    *[("base_url", value) for value in ("", "api.anthropic.com", "ftp://h", "https://", "//h")],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    """Before anything is sent; the message says which setting."""
    with pytest.raises(ConfigurationError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["retry_read_timeouts", "retry_resets", "allow_insecure"])
@pytest.mark.parametrize("value", ["false", "", None, 2])
def test_a_flag_is_true_or_false(name, value):
    """ "false" from some configuration file is a true string: billed twice, or the key in clear."""
    with pytest.raises(ConfigurationError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("value", [5, "https://[", "https://h:abc", "https://a b.com"])
def test_an_address_that_is_none_is_refused_in_our_words(value):
    """Not by an AttributeError here, not by a puzzle at the first call."""
    with pytest.raises(ConfigurationError, match="base_url"):
        Settings(base_url=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_version", None),
        ("api_version", "2023-06-01\nx-api-key: other"),
        ("default_headers", None),
        ("default_headers", "X-Trace: 7"),
        ("default_headers", {"X-Trace": "7\nx-api-key: other"}),
        ("proxies", "http://proxy:3128"),
        ("ca_bundle", 5),
        ("ca_bundle", "/no/such/bundle.pem"),
    ],
)
def test_what_only_the_wire_would_find_is_found_here(name, value):
    """A clear error in the constructor instead of a failed call with the key's neighbours in it."""
    with pytest.raises(ConfigurationError, match=name):
        Settings(**{name: value})


def test_a_number_no_float_can_hold_is_refused_in_our_words():
    """10**400 is no OverflowError of Python's."""
    with pytest.raises(ConfigurationError, match="rpm"):
        Settings(rpm=10**400)


def test_defaults_are_fine():
    """And the boundaries of what may be told."""
    assert Settings() == Settings.from_env(environ={})
    edges = Settings(burst=1, max_queue=1, max_retries=0, headroom=0.99, timeout=0.001)
    assert Settings(max_retries=100, max_concurrency=1, headroom=0).max_concurrency == 1
    assert dataclasses.replace(edges) == edges


# -- keys ------------------------------------------------------------------------------------------

SPOILT = [f"{KEY}\nx", f"{KEY[:8]} {KEY[8:]}", f"{KEY}\t{KEY}", f"{KEY}\x7f", f"{KEY}…", f"{KEY}\0"]


@pytest.mark.parametrize("name", ["api_key", "auth_token"])
@pytest.mark.parametrize("value", SPOILT)
def test_a_spoilt_key_is_refused_and_never_shown(name, value):
    """requests prints a key with a line break in it whole."""
    with pytest.raises(ConfigurationError, match=f"{name} holds a space, a line break") as caught:
        Settings(**{name: value})
    assert KEY[:8] not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("name", ["api_key", "auth_token"])
def test_space_around_a_key_is_stripped(name):
    """A file's last line break is the usual guest."""
    assert getattr(Settings(**{name: f"  {KEY}\n"}), name) == KEY


def test_no_repr_shows_a_secret():
    """Neither keys nor headers nor the proxy's password."""
    told = Settings(
        api_key=KEY,
        auth_token=KEY,
        default_headers={"X-Secret": KEY},
        proxies={"https": f"http://me:{KEY}@proxy"},
    )
    assert KEY not in repr(told) + str(told)
    assert "https://api.anthropic.com" in repr(told)


@pytest.mark.parametrize(
    "url", [f"https://me:{KEY}@h", f"https://h?key={KEY}", f"https://h#{KEY}", f"ftp://me:{KEY}@h"]
)
def test_a_url_with_a_secret_is_refused_and_not_shown(url):
    """It would be in every error."""
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        Settings(base_url=url)
    assert KEY not in str(caught.value)


def test_no_key_is_an_error_when_one_is_needed():
    """It says where to put it."""
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        Settings().require_key()
    Settings(api_key=KEY).require_key()
    Settings(auth_token=KEY).require_key()


def test_one_proof_of_who_we_are_goes_into_the_headers():
    """The key, or else the bearer token; never both."""
    key, token = Settings(api_key=KEY, auth_token="t"), Settings(auth_token="t")
    assert (key.headers["x-api-key"], "Authorization" in key.headers) == (KEY, False)
    assert (token.headers["Authorization"], "x-api-key" in token.headers) == ("Bearer t", False)
    assert not {"Authorization", "x-api-key"} & set(Settings().headers)


def test_default_headers_go_before_ours_but_not_before_the_key():
    """A key in the headers would not be known as one."""
    told = {"Accept": "x/y", "X-Trace": "7", "x-api-key": "other"}
    headers = Settings(api_key=KEY, api_version="2025-01-01", default_headers=told).headers
    assert (headers["Accept"], headers["X-Trace"], headers["x-api-key"]) == ("x/y", "7", KEY)
    assert headers["anthropic-version"] == "2025-01-01"


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://localhost:80", "http://127.0.0.1", "http://127.8.9.1:1/x", "http://[::1]:5"]
)
def test_plain_http_may_stay_in_this_machine(url):
    """The key does not travel."""
    assert Settings(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.anthropic.com",
        "http://localhost.evil.com",
        "http://127.0.0.1.evil.com",
        "http://0.0.0.1",
        "http://10.0.0.1",
        "HTTP://h",
        "http://xlocalhost",
        "http://[::2]",
    ],
)
def test_plain_http_to_others_needs_a_word(url):
    """allow_insecure=True; the message names the host."""
    with pytest.raises(ConfigurationError, match="sent unencrypted"):
        Settings(base_url=url)
    assert Settings(base_url=url, allow_insecure=True).base_url == url


def test_a_slash_at_the_end_does_not_matter():
    """{base_url}/v1/messages has one slash."""
    assert Settings(base_url="https://gate.example/claude//").base_url.endswith("/claude")


# -- quotas ----------------------------------------------------------------------------------------


def test_a_number_is_per_minute_or_per_day():
    """By the setting's last letter; a Quota is taken as it is."""
    told = Settings(rpm=1, itpm=2, otpm=3, tpm=4, rpd=5, tpd=6)
    assert {name: (q.amount, q.per) for name, q in told.quotas.items()} == {
        "rpm": (1, 60.0),
        "rpd": (5, 86_400.0),
        "itpm": (2, 60.0),
        "otpm": (3, 60.0),
        "tpm": (4, 60.0),
        "tpd": (6, 86_400.0),
    }
    assert Settings(rpm=Quota(7, per=2, burst=3)).quotas == {"rpm": Quota(7, per=2, burst=3)}


def test_what_is_not_told_is_learned():
    """No quota stands in for one that nobody told; the burst is learned if no rate is told."""
    assert Settings().quotas == {}
    assert (Settings().burst_in_force, Settings(burst=7).burst_in_force) == ("auto", 7)
    assert set(Settings(otpm=5).quotas) == {"otpm"}
    assert (Settings(rpm=5).burst_in_force, Settings(rpm=5, burst="auto").burst_in_force) == (
        1,
        "auto",
    )


def test_headroom_comes_off_every_quota():
    """What is left to others."""
    assert Settings(rpm=100, tpd=1000, headroom=0.25).quotas == {
        "rpm": Quota(75.0),
        "tpd": Quota(750.0, per=86_400.0),
    }
    assert Settings(headroom=0.5).quotas == {}


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("rmp", "rpm"), ("max_retry", "max_retries"), ("apikey", "api_key"), ("time_out", "timeout")],
)
def test_an_unknown_setting_is_met_with_the_closest_one(slip, meant):
    """In the constructor's way as in reconfigure()'s; a TypeError, as for any wrong keyword."""
    for refuse in (Settings.from_env, Settings().replaced):
        with pytest.raises(
            UnknownSetting, match=f"^{slip}= is not a setting; did you mean {meant}"
        ):
            refuse({slip: 1})


@pytest.mark.parametrize(
    ("meant", "names"),
    [
        ("rpm", "requests_per_minute max_rpm rate_limit calls_per_minute requestsPerMinute limit"),
        ("itpm", "input_tokens_per_minute max_input_tokens prompt_tokens_per_minute input_tpm"),
        ("otpm", "output_tokens_per_minute completion_tokens_per_minute output_tpm"),
        ("tpm", "tokens_per_minute max_tokens_per_minute token_limit tpm_limit"),
        ("rpd", "requests_per_day daily_requests rpd_limit"),
        ("tpd", "tokens_per_day daily_tokens"),
        ("max_concurrency", "concurrency workers max_workers num_threads parallelism semaphore"),
        ("max_retries", "retries retry max_attempts num_retries maxRetries"),
        ("api_key", "key apiKey ANTHROPIC_API_KEY anthropic_api_key secret"),
        ("auth_token", "token bearer_token access_token"),
        ("base_url", "url endpoint host api_base baseURL"),
        ("timeout", "request_timeout timeout_seconds deadline"),
        ("max_queue", "queue_size maxsize backlog"),
        ("shared", "redis redis_url store backend"),
        ("default_headers", "headers"),
        ("proxies", "proxy http_proxy"),
        ("ca_bundle", "verify ssl_verify cert"),
        ("max_connections", "pool_size pool_maxsize"),
        ("testing", "test_mode dry_run mock"),
        ("headroom", "safety_margin margin"),
        ("on_event", "callback listener on_error"),
        ("rpm=Quota(5, per=1)", "rps qps requests_per_second"),
        ("rpm=Quota(10, per=1)", "period per interval"),
        ("throttler.call(model=…", "model max_tokens temperature prompt"),
        ("throttler.call(…, priority=…)", "priority"),
        ("middleware=[throttler.middleware()]", "client http_client session"),
        ('logging.getLogger("claude_throttle")', "log_level debug"),
    ],
)
def test_other_libraries_words_for_a_setting_name_it(meant, names):
    """They resemble it by their meaning, not by their letters."""
    for name in names.split():
        with pytest.raises(UnknownSetting) as caught:
            Settings.from_env({name: 60})
        assert meant in str(caught.value).partition(f"{name}= is not a setting")[2]


def test_what_is_like_nothing_gets_no_hint():
    """A wrong hint is worse than none."""
    with pytest.raises(TypeError, match="^zzzzzz= is not a setting$"):
        Settings.from_env({"zzzzzz": 1})


def test_replaced_changes_only_what_is_told():
    """And checks it like everything else."""
    told = Settings(api_key=KEY, rpm=5)
    changed = told.replaced({"rpm": 6})
    assert (changed.quotas, changed.api_key) == ({"rpm": Quota(6)}, KEY)
    assert told.quotas == {"rpm": Quota(5)}
    with pytest.raises(ConfigurationError, match="rpm"):
        told.replaced({"rpm": 0})


def test_the_keywords_a_type_checker_knows_are_the_settings():
    """SettingsOptions and the dataclass name the same, in the same order, with a line each."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    classes = {n.name: n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)}
    names = {
        name: [n.target.id for n in classes[name].body if isinstance(n, ast.AnnAssign)]
        for name in ("SettingsOptions", "Settings")
    }
    assert names["SettingsOptions"] == names["Settings"] == list(FIELDS)
    lines = text.splitlines()
    for node in classes["Settings"].body:
        if isinstance(node, ast.AnnAssign):
            assert lines[node.lineno - 2].strip().startswith("#:"), node.target.id


def test_settings_do_not_change():
    """Frozen, so safe to share."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().rpm = 5


@pytest.mark.parametrize("seconds", [0, -1, "5", None, True, math.nan, math.inf])
def test_a_timeout_is_a_positive_number_of_seconds(seconds):
    """The same words for the setting and for a call's own."""
    require_timeout(0.5)
    with pytest.raises(ConfigurationError, match="timeout must be a positive number of seconds"):
        require_timeout(seconds)
