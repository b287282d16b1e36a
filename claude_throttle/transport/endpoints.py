"""Paths of the API that we use."""

from __future__ import annotations

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
BATCHES_PATH = "/v1/messages/batches"
