"""Message Batches: half the price, within a day. Stopped and started again, it continues by id.

    python batches.py

The ids are in batches.json, from the moment each is known until the answers are printed.
"""

import json
from pathlib import Path

from claude_throttle import Throttler

IDS = Path("batches.json")
REVIEWS = {"r-17": "Arrived broken.", "r-18": "Better than the last one.", "r-19": "It is a lamp."}


def request(review):
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": f"Good, bad or neither? {review}"}],
    }


def record(batch_id, _custom_ids):
    """Called before each batch is created, with None, and right after, with its id."""
    if batch_id is not None:
        ids = json.loads(IDS.read_text()) if IDS.exists() else []
        IDS.write_text(json.dumps([*ids, batch_id]))


with Throttler() as throttler:
    if IDS.exists():
        handle = throttler.batches.resume(json.loads(IDS.read_text()), custom_ids=REVIEWS)
    else:
        requests = ((name, request(review)) for name, review in REVIEWS.items())
        handle = throttler.batches.submit(requests, on_create=record)
    print(handle.progress())
    for result in handle.results():  # in the order of REVIEWS
        print(result.custom_id, result.error or result.message.content[0].text)
IDS.unlink()
