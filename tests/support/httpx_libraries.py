"""The libraries ``httpx`` and ``httpx2``: those that are installed, and the official SDK's."""

from __future__ import annotations

import importlib
import importlib.util

from anthropic import _base_client

#: At least one, since the SDK needs one.
INSTALLED = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]

#: What the SDK's client is made of.
OF_THE_SDK = getattr(_base_client, "httpx2", None) or _base_client.httpx


def library(name):
    """The library of that name."""
    return importlib.import_module(name)
