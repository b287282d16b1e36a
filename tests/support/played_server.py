"""What the tests of the wire ask, and what they have the server answer."""

from __future__ import annotations

import json

import responses

KEY = "sk-ant-secret-0123456789"
BASE = "https://api.example"
URL = BASE + "/v1/messages"
ASK = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 5},
}


def answer(server, url=URL, body=None, **how):
    server.add(responses.POST, url, body=json.dumps(ANSWER) if body is None else body, **how)


def refuse(server, status, code=None, **headers):
    error = {"type": "error", "error": {"type": "x", "details": {"error_code": code}}}
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    server.add(responses.POST, URL, json=error, status=status, headers=fields)


def failure(throttler, **more):
    """What a call fails with."""
    return throttler.submit(**{**ASK, **more}).exception(timeout=60)
