"""Exceptions of the official SDK, as a throttler raises them."""

from __future__ import annotations

import json

from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import STATUS_BY_TYPE

URL = "https://api.anthropic.com/v1/messages"


def status_error(status, message="no", headers=None, kind=None):
    """The exception for a response of that status in the API's envelope, of *kind* or the usual."""
    usual = {code: name for name, code in STATUS_BY_TYPE.items()}
    body = {"type": "error", "error": {"type": kind or usual.get(status), "message": message}}
    content = json.dumps(body).encode()
    return sdk.status_error(URL, status, {"request-id": "req_1", **(headers or {})}, content, body)
