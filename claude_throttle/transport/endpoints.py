"""Where the API has what we ask of it."""

from __future__ import annotations

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
BATCHES_PATH = "/v1/messages/batches"
