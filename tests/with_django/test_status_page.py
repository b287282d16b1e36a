"""The status page: for staff, and for nobody else."""

from __future__ import annotations

import json

import pytest
from django.test import override_settings
from django.urls import include, path, reverse

from claude_throttle.contrib import status

PAGE, DATA = "/claude/", "/claude/data.json"

#: A project without the admin's pages.
urlpatterns = [path("claude/", include("claude_throttle.contrib.django.urls"))]


def is_never_cached(response):
    return "no-store" in response["Cache-Control"]


def test_staff_sees_it(staff, told):
    """The page, and what it fetches."""
    told(default={"rpm": 50}, batch={})
    response = staff.get(PAGE)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/html")
    assert response.content == status.page()
    assert is_never_cached(response)
    for name, value in status.page_headers().items():
        if name != "Cache-Control":
            assert response[name] == value
    response = staff.get(DATA)
    assert response.status_code == 200
    assert is_never_cached(response)
    assert response["Content-Type"].startswith("application/json")
    shown = json.loads(response.content)
    assert {"default", "batch"} <= set(str(shown).replace("'", " ").split())
    assert "sk-ant" not in response.content.decode()
    assert reverse("claude_throttle:status") == PAGE


def test_others_are_sent_to_the_admins_login(client, member):
    """Which sends them back, or lets them sign in as somebody else."""
    for browser in (client, member):
        response = browser.get(PAGE)
        assert response.status_code == 302
        assert response["Location"] == "/admin/login/?next=/claude/"
        assert is_never_cached(response)


def test_a_page_that_was_signed_out_is_told_so(client, member):
    """By its own kind of answer: fetch() would follow a redirect to the login."""
    for browser in (client, member):
        response = browser.get(DATA)
        assert response.status_code == 403
        assert response.json()["error"]["type"] == "forbidden"
        assert is_never_cached(response)


def test_somebody_who_is_no_longer_active(staff):
    """A session may outlive the right to it."""
    from django.contrib.auth.models import User

    User.objects.filter(username="staff").update(is_active=False)
    try:
        assert staff.get(DATA).status_code == 403
        assert staff.get(PAGE).status_code == 302
    finally:
        User.objects.filter(username="staff").update(is_active=True)


@pytest.mark.parametrize("address", [PAGE, DATA])
def test_it_can_only_be_read(staff, address):
    """GET and HEAD, nothing else."""
    head = staff.head(address)
    assert (head.status_code, head.content) == (200, b"")
    for method in (staff.post, staff.put, staff.delete, staff.patch):
        assert method(address).status_code == 405


def test_without_the_admin(client, staff, member):
    """LOGIN_URL; somebody who is signed in, and not of the staff, would come back for ever."""
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/enter/"):
        assert client.get(PAGE)["Location"] == "/enter/?next=/claude/"
        assert member.get(PAGE).status_code == 403
        assert staff.get(PAGE).status_code == 200


def test_without_users(client):
    """There is nobody to show it to."""
    with override_settings(MIDDLEWARE=[]):
        assert client.get(PAGE).status_code == 302
        assert client.get(DATA).status_code == 403
        with override_settings(ROOT_URLCONF=__name__):
            assert client.get(PAGE).status_code == 403
