"""The fake API in a process of its own: ``python -m tests.bench.serve '{"rpm": 1200}'``.

Keywords are those of :class:`FakeClaude`; ``output_tokens`` and ``latency`` may be pairs, the
shortest and the longest. ``seconds_per_token`` in place of both: each prompt begins with the number
of tokens its answer is to have. Prints its URL, then answers each line on stdin with one line:

- an empty line: the log of messages, as JSON
- ``{"tell": "other_arrivals"}``, or ``"others_taken"``: that, as JSON
- ``{"limits": {"rpm": 600}, "faults": {"529": 0.1}, "outage": true}``, or some of it: changes it,
  and says ``"ok"``; an outage may also be the name of a reply, such as ``"CREDIT_TOO_LOW"``

Whatever cannot be done is answered with ``{"error": …}``. Ends with stdin, so that it cannot
outlive the benchmark.
"""

from __future__ import annotations

import json
import sys

from claude_throttle import testing
from claude_throttle.testing import FakeClaude
from tests.bench.work import between

#: Characters of a prompt that are kept to tell calls apart.
NONCE = 20


def main():
    with FakeClaude(**_options(json.loads(sys.argv[1]))) as server:
        print(server.url, flush=True)
        for line in sys.stdin:
            print(json.dumps(_answer(server, line.strip())), flush=True)


def _options(options):
    lengths, latency = options.get("output_tokens"), options.get("latency")
    if isinstance(lengths, list):
        options["output_tokens"] = lambda source, body: between(source, *lengths)
    if isinstance(latency, list):
        # Milliseconds: between() gives whole numbers.
        thousands = [1000 * seconds for seconds in latency]
        options["latency"] = lambda source, body: between(source, *thousands) / 1000
    each = options.pop("seconds_per_token", None)
    if each is not None:
        options["output_tokens"] = lambda source, body: _wished(body)
        options["latency"] = lambda source, body: each * _wished(body)
    return options


def _wished(body):
    return int(body["messages"][0]["content"].split()[0])


def _answer(server, line):
    if not line:
        return _shown(server.arrivals)
    try:
        return _obeyed(server, json.loads(line))
    except Exception as problem:
        # A slip in the benchmark must not end the server, and the run that waits for it.
        return {"error": repr(problem)}


def _obeyed(server, told):
    if "tell" in told:
        found = getattr(server, told["tell"])
        return _shown(found) if isinstance(found, list) else found
    for name, value in told.items():
        CHANGES[name](server, value)
    return "ok"


def _set_outage(server, told):
    if isinstance(told, str):
        server.outage(reply=getattr(testing, told))
    else:
        server.outage(told)


#: What a line may change: name, and how.
CHANGES = {
    "limits": lambda server, told: server.limits(**told),
    "faults": lambda server, told: server.faults(told),
    "outage": _set_outage,
}


def _shown(arrivals):
    return [_without_words(arrival) for arrival in arrivals]


def _without_words(arrival):
    # The headers stay here, and long texts: they would be most of it.
    shown = arrival._asdict()
    del shown["headers"]
    shown["nonce"] = shown["nonce"][:NONCE]
    return shown


if __name__ == "__main__":
    main()
