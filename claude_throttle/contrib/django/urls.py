"""The status page: ``path("claude/", include("claude_throttle.contrib.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from claude_throttle.contrib.django import views

app_name = "claude_throttle"

urlpatterns = [
    # The address must end with a slash: the page fetches data.json relative to it.
    path("", views.status, name="status"),
    path("data.json", views.data, name="data"),
]
