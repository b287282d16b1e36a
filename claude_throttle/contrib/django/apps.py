"""The application's configuration, as Django loads it through INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig


class ClaudeThrottleConfig(AppConfig):
    """Starts no thread: ``ready()`` runs before the workers fork, and for every command."""

    name = "claude_throttle.contrib.django"
    label = "claude_throttle"
    verbose_name = "Claude throttle"

    def ready(self) -> None:
        """Register the system checks."""
        from claude_throttle.contrib.django import checks  # noqa: F401 - importing it registers them
