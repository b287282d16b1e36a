"""The status page, and what it fetches: for staff only, and never from a cache."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from claude_throttle.contrib import status as page
from claude_throttle.contrib.django import throttlers


@require_safe
@never_cache
def status(request: HttpRequest) -> HttpResponse:
    """The page; whoever is not of the staff is sent to the admin's login, or to LOGIN_URL."""
    if not _is_staff(request):
        return _to_login(request)
    return _with_headers(HttpResponse(page.page()), page.page_headers())


@require_safe
@never_cache
def data(request: HttpRequest) -> HttpResponse:
    """What the page shows; 403 to those it is not for, who may have been signed out meanwhile."""
    if not _is_staff(request):
        error = {"type": "forbidden", "message": "Sign in as a member of the staff."}
        return JsonResponse({"error": error}, status=403)
    return _with_headers(JsonResponse(page.data(throttlers)), page.data_headers())


def _with_headers(response: HttpResponse, headers: dict[str, str]) -> HttpResponse:
    for name, value in headers.items():
        response[name] = value
    return response


def _is_staff(request: HttpRequest) -> bool:
    # Without django.contrib.auth there is no user, and nobody to show it to.
    user = getattr(request, "user", None)
    return user is not None and bool(user.is_active and user.is_staff)


def _to_login(request: HttpRequest) -> HttpResponse:
    """The admin's own page lets people sign in as somebody else; others may send them back here."""
    try:
        login = reverse("admin:login")
    except NoReverseMatch:
        user = getattr(request, "user", None)
        if user is None or user.is_authenticated:
            raise PermissionDenied from None
        login = resolve_url(settings.LOGIN_URL)
    from django.contrib.auth.views import redirect_to_login  # cannot be where there are no users

    return redirect_to_login(request.get_full_path(), login)
