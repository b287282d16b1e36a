"""The fake API in a process of its own: ``python -m tests.bench.serve '{"rpm": 1200}'``.

Keywords are those of :class:`FakeClaude`; ``output_tokens`` may be a pair, the shortest and the
longest answer. Prints its URL; for each line on stdin, prints its log as one line of JSON; ends
with stdin, so that it cannot outlive the benchmark.
"""

from __future__ import annotations

import json
import sys

from claude_throttle.testing import FakeClaude
from tests.bench.work import between


def main():
    options = json.loads(sys.argv[1])
    lengths = options.get("output_tokens")
    if isinstance(lengths, list):
        options["output_tokens"] = lambda source, body: between(source, *lengths)
    with FakeClaude(**options) as server:
        print(server.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps([_shown(arrival) for arrival in server.arrivals]), flush=True)


def _shown(arrival):
    # The headers stay here: they would be most of it.
    shown = arrival._asdict()
    del shown["headers"], shown["nonce"]
    return shown


if __name__ == "__main__":
    main()
