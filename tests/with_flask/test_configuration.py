"""What is told wrong is said at init_app, with what to write instead."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from claude_throttle import ConfigurationError, UnknownSetting
from claude_throttle.contrib.flask import ClaudeThrottle, current_throttler, current_throttlers
from tests.support.calls import KEY

feedback = []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"RPMM": 1}, "CLAUDE_THROTTLE_RPMM is not a setting; did you mean CLAUDE_THROTTLE_RPM?"),
        ({"THROTLERS": {}}, "did you mean CLAUDE_THROTTLE_THROTTLERS?"),
        ({"HANDLE_ERROR": 1}, "did you mean CLAUDE_THROTTLE_HANDLE_ERRORS?"),
        ({"ON_EVENTS": 1}, "did you mean CLAUDE_THROTTLE_ON_EVENT?"),
        ({"REQUESTS_PER_MINUTE": 1}, "did you mean CLAUDE_THROTTLE_RPM?"),
        ({"CLIENT": 1}, "CLIENT is not a setting: a client that you have"),
        ({"THROTTLERS": {"batch": {"workers": 1}}}, "; did you mean max_concurrency?"),
        ({"XYZZY": 1}, "CLAUDE_THROTTLE_XYZZY is not a setting"),
        ({"RPM": -1}, "CLAUDE_THROTTLE_*: rpm must be a positive, finite number, not -1"),
        ({"RPM": "fast"}, "CLAUDE_THROTTLE_RPM='fast' is not a value for rpm"),
        ({"MAX_QUEUE": "2.5"}, "CLAUDE_THROTTLE_MAX_QUEUE='2.5' is not a value for max_queue"),
        ({"TESTING": "maybe"}, "CLAUDE_THROTTLE_TESTING must be True or False, not 'maybe'"),
        ({"TESTING": 2}, "CLAUDE_THROTTLE_TESTING must be True or False, not 2"),
        ({"HANDLE_ERRORS": "some"}, "CLAUDE_THROTTLE_HANDLE_ERRORS must be True or False"),
        ({"SHARED": "mysql://x"}, "shared must be one of sqlite://…, redis://…"),
        ({"BASE_URL": "http://far.example"}, "allow_insecure"),
        ({"API_KEY": 12}, "api_key must be a string, not int"),
        ({"TIER": "gold"}, "tier must be one of"),
        ({"THROTTLERS": "batch"}, 'must be like {"batch": {"rpm": 10}}, not str'),
        ({"THROTTLERS": {"batch": 10}}, "THROTTLERS['batch'] must be like {\"rpm\": 10}, not int"),
        ({"THROTTLERS": {"default": {}}}, "configured by CLAUDE_THROTTLE_RPM and similar"),
        ({"THROTTLERS": {7: {"rpm": 10}}}, "a throttler's name must be a string, not 7"),
        ({"THROTTLERS": {"batch": {"RPMM": 1}}}, "THROTTLERS['batch'] has 'rpmm', which is not a"),
        ({"THROTTLERS": {"batch": {"RPMM": 1}}}, "; did you mean rpm?"),
        ({"THROTTLERS": {"batch": {"rpm": 0}}}, "THROTTLERS['batch']: rpm must be"),
        ({"THROTTLERS": {"batch": {"rpm": "x"}}}, "THROTTLERS['batch'] rpm='x' is not a value for"),
    ],
)
def test_what_cannot_work(make_app, told, words):
    """In the words of the configuration; never a key."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        make_app(**{"API_KEY": KEY, **told})


def test_a_slip_is_an_unknown_setting(make_app):
    """As Throttler(rpmm=1) raises it."""
    for told in ({"RPMM": 1}, {"THROTTLERS": {"batch": {"rpmm": 1}}}):
        with pytest.raises(UnknownSetting):
            make_app(**told)


def test_what_is_changed_later_is_checked_too(make_app):
    """At the first use."""
    app = make_app(API_KEY=KEY)
    app.config["CLAUDE_THROTTLE_RPMM"] = 5
    with app.app_context(), pytest.raises(UnknownSetting, match="did you mean CLAUDE_THROTTLE_RPM"):
        current_throttler.stats()


def test_prefixed_environment(monkeypatch):
    """Texts and numbers arrive, as Flask reads them; nested ones, too."""
    for name, text in {
        "API_KEY": KEY,
        "RPM": "50",
        "BURST": "auto",
        "TESTING": "1",
        "RETRY_RESETS": "False",
        "TIMEOUT": '"2.5"',
        "TIER": "build",
        "OTPM": "",
        "SHARED": "null",
        "LANES": '{"claude-x-*": "x"}',
        "HANDLE_ERRORS": "0",
        "THROTTLERS__batch__rpm": "10",
        "THROTTLERS__batch__testing": "true",
    }.items():
        monkeypatch.setenv(f"FLASK_CLAUDE_THROTTLE_{name}", text)
    app = Flask("shop")
    app.config.from_prefixed_env()
    claude = ClaudeThrottle(app)
    with app.app_context():
        told = current_throttler.settings
        assert (told.rpm.amount, told.burst, told.timeout, told.tier) == (50, "auto", 2.5, "build")
        assert (told.testing, told.retry_resets, told.otpm, told.shared) == (
            True,
            False,
            None,
            None,
        )
        assert told.lanes == {"claude-x-*": "x"}
        batch = current_throttlers["batch"].settings
        assert (batch.rpm.amount, batch.testing) == (10, True)
    assert dict(app.error_handler_spec) == {}
    claude.reset(app)


def test_the_environment_fills_in(make_app, monkeypatch):
    """What the configuration leaves out, or has as None or an empty text."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-environment")
    monkeypatch.setenv("CLAUDE_THROTTLE_RPM", "7")
    for told in ({}, {"API_KEY": None}, {"API_KEY": "", "RPM": ""}):
        with make_app(**told).app_context():
            assert current_throttler.settings.api_key == "sk-ant-environment"
            assert current_throttler.settings.rpm.amount == 7
    with make_app(RPM=8).app_context():
        assert current_throttler.settings.rpm.amount == 8


def test_a_listener(asking_app):
    """A function, or its dotted name, which is imported with the first use only."""
    for listener in (feedback.append, f"{__name__}.hear"):
        feedback.clear()
        assert asking_app(ON_EVENT=listener).test_client().get("/default").status_code == 200
        assert feedback
    app = asking_app(ON_EVENT="nowhere.at_all")
    with app.app_context(), pytest.raises(ConfigurationError, match="cannot be imported"):
        current_throttler.stats()


def hear(event):
    """A listener."""
    feedback.append(event)


def test_no_error_shows_a_secret(make_app):
    """A store's address may hold a password."""
    secret = "hunter2-hunter2"
    for told in ({"SHARED": f"mysql://u:{secret}@x"}, {"API_KEY": f"{secret}\nx", "RPM": -1}):
        with pytest.raises(ConfigurationError) as caught:
            make_app(**told)
        assert secret not in str(caught.value)
