"""What stands in the environment of real deployments: relays' URLs, quoted keys, namesakes."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from claude_throttle import ConfigurationError, Settings, Throttler
from claude_throttle.features.sharing.stores.redis_errors import failure
from claude_throttle.namesake import warn_of_namesake

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-ant-api03-abc"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://relay.example/v1", "https://relay.example"),
        ("https://relay.example/v1/", "https://relay.example"),
        ("https://relay.example/v1/messages", "https://relay.example"),
        ("https://relay.example/v1/messages/", "https://relay.example"),
        ("https://relay.example:8443/anthropic/v1", "https://relay.example:8443/anthropic"),
        ("https://relay.example/v1/messages/count_tokens", "https://relay.example"),
        ("https://relay.example/v1/messages/batches", "https://relay.example"),
        ("https://relay.example//v1//", "https://relay.example"),
    ],
)
def test_the_path_of_an_endpoint_is_taken_off_a_base_url_with_one_warning(given, used):
    with pytest.warns(UserWarning, match="base_url ends with") as told:
        settings = Settings(base_url=given, api_key=KEY)
    assert (settings.base_url, len(told)) == (used, 1)
    # A copy is checked again, and has nothing left to be told.
    assert settings.replaced({"rpm": 5.0}).base_url == used


def test_the_environment_s_base_url_is_read_the_same_way():
    with pytest.warns(UserWarning, match='"/v1"'):
        settings = Settings.from_env({}, {"ANTHROPIC_BASE_URL": "https://relay.example/v1"})
    assert settings.base_url == "https://relay.example"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Throttler(base_url="https://relay.example/v1", api_key=KEY),
        lambda: Settings(base_url="https://relay.example/v1", api_key=KEY),
        lambda: Settings.from_env({}, {"ANTHROPIC_BASE_URL": "https://relay.example/v1"}),
    ],
)
def test_the_warning_points_at_the_program_s_own_line(make):
    """Which it is about; a line of ours tells nobody where the URL is written."""
    with pytest.warns(UserWarning, match="base_url ends with") as told:
        made = make()
    assert [warning.filename for warning in told] == [__file__]
    assert [warning.lineno for warning in told] == [make.__code__.co_firstlineno]
    if isinstance(made, Throttler):
        made.close()


@pytest.mark.parametrize(
    "url",
    [
        "https://gateway.example/v1/account/gateway/anthropic",
        "https://relay.example/api/v1x",
        "https://relay.example/messages",
        "https://v1",
        "https://relay.example/v1/models",
    ],
)
def test_a_relay_s_own_path_stays(url):
    assert Settings(base_url=url).base_url == url


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0:8080", "[::]:80", "localhost.", "app.localhost:1", "[::ffff:127.0.0.1]", "0.0.0.0"],
)
def test_an_address_of_this_machine_may_have_plain_http(host):
    assert Settings(base_url=f"http://{host}").base_url == f"http://{host}"


@pytest.mark.parametrize(
    "host", ["0.0.0.1", "[::ffff:10.0.0.1]", "localhost.example", "xlocalhost", "1.0.0.0"]
)
def test_an_address_of_another_machine_may_not(host):
    with pytest.raises(ConfigurationError, match="sent unencrypted"):
        Settings(base_url=f"http://{host}")


@pytest.mark.parametrize("pattern", ['"{}"', "'{}'", '"{}', "{}'", "`{}`", ' "{}" '])
@pytest.mark.parametrize("name", ["api_key", "auth_token", "admin_key"])
def test_a_key_in_quotes_is_refused_at_once_and_not_shown(name, pattern):
    variable = f"ANTHROPIC_{name.upper()}"
    for make in (
        lambda key: Settings(**{name: key}),
        lambda key: Settings.from_env({}, {variable: key}),
    ):
        with pytest.raises(ConfigurationError, match="quotation marks") as caught:
            make(pattern.format(KEY))
        assert name in str(caught.value)
        assert KEY not in str(caught.value)


def bundle_of(tmp_path, **names):
    """The CA bundle that is used where each variable names a file or folder of that name."""
    environ = {variable: str(tmp_path / name) for variable, name in names.items()}
    found = Settings.from_env({}, environ).ca_bundle
    return found and Path(found).name


def test_the_bundles_of_openssl_come_after_those_of_requests(tmp_path):
    for name in ("r.pem", "c.pem", "f.pem"):
        (tmp_path / name).touch()
    (tmp_path / "certs").mkdir()
    file = {"SSL_CERT_FILE": "f.pem", "SSL_CERT_DIR": "certs"}
    assert bundle_of(tmp_path, REQUESTS_CA_BUNDLE="r.pem", **file) == "r.pem"
    assert bundle_of(tmp_path, CURL_CA_BUNDLE="c.pem", **file) == "c.pem"
    assert bundle_of(tmp_path, **file) == "f.pem"
    assert bundle_of(tmp_path, SSL_CERT_DIR="certs") == "certs"


def test_a_bundle_of_openssl_that_does_not_exist_is_skipped(tmp_path):
    (tmp_path / "certs").mkdir()
    assert bundle_of(tmp_path, SSL_CERT_FILE="gone.pem") is None
    assert bundle_of(tmp_path, SSL_CERT_FILE="gone.pem", SSL_CERT_DIR="certs") == "certs"
    folders = os.pathsep.join(str(tmp_path / name) for name in ("gone", "certs"))
    assert Settings.from_env({}, {"SSL_CERT_DIR": folders}).ca_bundle == str(tmp_path / "certs")


class ResponseError(Exception):
    """A refusal, as redis-py names it."""


@pytest.mark.parametrize(
    "text",
    [
        "Error running script: @user_script:9: Write commands not allowed after non deterministic "
        "commands. Call redis.replicate_commands() at the start of your script",
        "ERR Error running script: This Redis command is not allowed from scripts",
        "ERR user_script:7: Unknown Redis command called from Lua script",
        "ERR This Redis command is not allowed from script script: 1f3, on @user_script:7.",
    ],
)
def test_a_server_whose_scripts_cannot_tell_the_time_comes_with_an_advice(text):
    assert "Redis 5 or newer" in str(failure(ResponseError(text), "redis://h", 0.1, ()))


def test_a_servers_words_come_without_control_characters():
    said = str(failure(ResponseError("ERR \x1b[31mred\u202e\x07\nend"), "redis://h", 0.1, ()))
    assert said.isprintable()
    assert "red" in said
    assert "end" in said


def test_other_refusals_come_without_that_advice():
    assert "Redis 5" not in str(failure(ResponseError("ERR syntax error"), "redis://h", 0.1, ()))


# -- the name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("info", ["claude_throttle-0.3.1.dist-info", "claude_throttle-2.egg-info"])
def test_the_namesake_beside_the_package_is_told_at_import(tmp_path, info):
    (tmp_path / info).mkdir()
    with pytest.warns(UserWarning, match="pip uninstall claude-throttle"):
        warn_of_namesake([str(tmp_path / "claude_throttle")])


def test_without_it_nothing_is_told(tmp_path):
    for name in ("claude_throttle_sdk-0.1.0.dist-info", "claude_throttle.egg-info"):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_namesake([str(tmp_path / "claude_throttle"), str(tmp_path / "gone" / "x")])


def test_no_text_tells_anybody_to_install_the_namesake():
    texts = [
        *ROOT.glob("*.md"),
        *ROOT.glob("examples/**/*.*"),
        *ROOT.glob("claude_throttle/**/*.py"),
    ]
    for path in texts:
        if path.is_file() and path.suffix != ".pyc":
            words = " ".join(path.read_text("utf-8").split())
            assert not re.search(r"\binstall (-\S+ )*'?claude-throttle(?!-sdk)\b", words), path


def test_the_metadata_has_the_new_name_addresses_and_systems():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    metadata = setup["metadata"]
    assert metadata["name"] == "claude-throttle-sdk"
    assert metadata["url"].startswith("https://")
    assert "Changelog" in metadata["project_urls"]
    assert "Operating System :: POSIX" in metadata["classifiers"].splitlines()


WITHOUT_POSIX = """
import sys
for module in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[module] = None
import claude_throttle, claude_throttle.cli.main, claude_throttle.cli.results
from claude_throttle import *
import claude_throttle.features.sharing.stores.sqlite as sqlite
from claude_throttle.testing import FakeClaude
with FakeClaude() as server, Throttler(api_key="k", base_url=server.url) as throttler:
    print(throttler.call(model="m", max_tokens=5, raw=True,
        messages=[{"role": "user", "content": "hi"}])["type"])
try:
    Throttler(api_key="k", shared="sqlite:////tmp/x.db").limits()
except ConfigurationError as error:
    print("flock" in str(error))
"""


def test_where_the_modules_of_posix_are_missing_calls_work_and_sqlite_says_a_sentence():
    """As on Windows; the locks of files are what is missing there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["message", "True"], done.stderr
