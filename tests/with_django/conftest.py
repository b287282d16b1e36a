"""Django as the tests have it, and throttlers that ask a fake."""

from __future__ import annotations

import os

import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.with_django.settings"
try:
    import django

    django.setup()
finally:
    # Programs that other tests start have nothing to do with it.
    del os.environ["DJANGO_SETTINGS_MODULE"]

from django.core.management import call_command
from django.test import Client, override_settings

KEY = "sk-ant-api03-of-the-tests"


@pytest.fixture(scope="session")
def _tables():
    """In memory, for this process."""
    call_command("migrate", verbosity=0)


@pytest.fixture
def staff(_tables):
    """A browser of somebody who may see the admin's pages."""
    return _signed_in("staff", is_staff=True)


@pytest.fixture
def member(_tables):
    """A browser of somebody who may not."""
    return _signed_in("member", is_staff=False)


def _signed_in(name, **given):
    from django.contrib.auth.models import User

    user, _ = User.objects.get_or_create(username=name, defaults=given)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def client():
    """A browser of nobody in particular."""
    return Client()


@pytest.fixture
def told(fake):
    """``told(default={…}, batch={…})``: throttlers that ask ``told.server``, to the test's end."""
    changed = []

    def tell(**named):
        named = {name: _wired(tell.server, options) for name, options in named.items()}
        change = override_settings(CLAUDE_THROTTLE=named)
        change.enable()
        changed.append(change)

    tell.server = fake()
    yield tell
    for change in reversed(changed):
        change.disable()


def _wired(server, options):
    return {"api_key": KEY, "base_url": server.url, "rpm": 60_000, "burst": 100, **options}
