"""The tests' project, for web servers."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.with_django.settings"

from django.core.wsgi import get_wsgi_application

from claude_throttle.contrib.django import throttler
from tests.support.calls import ask

application = get_wsgi_application()

if "WARM" in os.environ:
    # Used, and in use, before the workers are forked.
    throttler.call(**ask("import"))
    unfinished = throttler.submit(**ask("late"))
