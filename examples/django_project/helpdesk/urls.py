"""The tickets, the admin, and the throttlers' status page for those who may see the admin."""

from django.contrib import admin
from django.urls import include, path
from tickets import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("claude/", include("claude_throttle.contrib.django.urls")),
    path("tickets/", views.add, name="add"),
    path("tickets/<int:pk>/", views.show, name="ticket"),
    path("tickets/<int:pk>/draft/", views.draft, name="draft"),
]
