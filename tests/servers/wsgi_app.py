"""What every web server here serves."""

from __future__ import annotations

import json
from typing import Any

# First, since it may patch.
from tests.servers.work import report


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The query is the nonce."""
    body = json.dumps(report(environ["QUERY_STRING"])).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
