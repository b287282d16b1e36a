"""A server played by ``responses``, and throttlers that talk to it."""

from __future__ import annotations

import pytest
import responses

from claude_throttle import Throttler
from tests.support.played_server import BASE, KEY


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Nothing of the machine's own settings."""
    names = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ALL_PROXY"]
    names += ["ANTHROPIC_CUSTOM_HEADERS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
    names += ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server():
    """What it is told to answer, in turn; nothing else can be reached."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as playing:
        yield playing


@pytest.fixture
def make(server):
    """Throttlers that are closed before the server goes."""
    made = []

    def begin(**options):
        proof = {} if {"auth_token", "settings"} & set(options) else {"api_key": KEY}
        throttler = Throttler(**{"base_url": BASE, "rpm": 60_000, **proof, **options})
        made.append(throttler)
        return throttler

    yield begin
    for throttler in made:
        throttler.close(timeout=20)
