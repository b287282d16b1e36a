"""Paths of the API that the transport uses, to be appended to ``base_url``.

``base_url`` may have a path of its own (a gateway), so nothing here is resolved as a relative URL.
"""

from __future__ import annotations

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
BATCHES_PATH = "/v1/messages/batches"

#: Of the schemes that a URL may have.
DEFAULT_PORTS = {"http": 80, "https": 443}
