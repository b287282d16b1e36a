"""The views of the status page: for staff only, never cached.

The page itself is :mod:`claude_throttle.contrib.status`. Only GET and HEAD are allowed, and nothing
is changed, so no CSRF token is needed.
"""

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
    """The page. Redirects users who are not staff to the admin's login, or to LOGIN_URL."""
    if not _is_staff(request):
        return _to_login(request)
    return _with_headers(HttpResponse(page.page()), page.page_headers())


@require_safe
@never_cache
def data(request: HttpRequest) -> HttpResponse:
    """The data that the page shows; 403 for users who are not staff (any more)."""
    if not _is_staff(request):
        error = {"type": "forbidden", "message": "Sign in as a member of the staff."}
        return JsonResponse({"error": error}, status=403)
    return _with_headers(JsonResponse(page.data(throttlers)), page.data_headers())


def _with_headers(response: HttpResponse, headers: dict[str, str]) -> HttpResponse:
    for name, value in headers.items():
        response[name] = value
    return response


def _is_staff(request: HttpRequest) -> bool:
    """Whether the request's user may see the page: active, and a member of the staff."""
    # Without django.contrib.auth there is no user, so the page is for no one.
    user = getattr(request, "user", None)
    return user is not None and bool(user.is_active and user.is_staff)


def _to_login(request: HttpRequest) -> HttpResponse:
    """Redirect to a login page.

    The admin's lets a signed-in user sign in as another one. LOGIN_URL may send them straight back
    here, so signed-in users get 403 instead.
    """
    try:
        login = reverse("admin:login")
    except NoReverseMatch:
        user = getattr(request, "user", None)
        if user is None or user.is_authenticated:
            raise PermissionDenied from None
        login = resolve_url(settings.LOGIN_URL)
    from django.contrib.auth.views import redirect_to_login  # needs django.contrib.auth

    return redirect_to_login(request.get_full_path(), login)
