"""A Django project with the same view twice: through a throttler, and by ``Session.post``.

Each tells how long its request thread was busy with the call, in seconds.
"""

from __future__ import annotations

import os
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

from claude_throttle.contrib.django import throttler
from tests.bench.cost import pooling_session
from tests.bench.work import UNBOUNDED_RPM, ask

URL = os.environ["FAKE_URL"]

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not-a-secret",
    USE_TZ=True,
    INSTALLED_APPS=["claude_throttle.contrib.django"],
    CLAUDE_THROTTLE={
        "default": {"api_key": "sk-ant-not-a-key", "base_url": URL, "rpm": UNBOUNDED_RPM}
    },
)

session = pooling_session()


def ours(request):
    """A dict, as from the other one."""
    return _timed(lambda: throttler.call(raw=True, **ask()))


def theirs(request):
    """The same, unthrottled."""
    return _timed(lambda: session.post(f"{URL}/v1/messages", json=ask()).json())


def _timed(work):
    began = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - began
    return HttpResponse(f"{seconds:.7f}" if answer["type"] == "message" else answer)


urlpatterns = [path("ours", ours), path("theirs", theirs)]

application = get_wsgi_application()
