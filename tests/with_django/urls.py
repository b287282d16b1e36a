"""Of the tests' project."""

from django.contrib import admin
from django.urls import include, path

from tests.with_django import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("claude/", include("claude_throttle.contrib.django.urls")),
    path("fail/<name>", views.fail),
    path("fail-later/<name>", views.fail_later),
    path("plain/<name>", views.plain),
    path("awaited/<name>", views.awaited),
    path("page/<name>", views.Page.as_view()),
    path("call", views.call),
    path("stream", views.stream),
]
