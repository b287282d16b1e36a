"""Add a column to a CSV: one call a row, in order, never more than a few rows in memory.

python map_csv.py < reviews.csv > with_sentiment.csv  (reviews.csv has a column "review")
"""

import csv
import itertools
import sys

from claude_throttle import Throttler


def request(row):
    question = f"Answer in one word, positive or negative: {row['review']}"
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": question}],
    }


reader = csv.DictReader(sys.stdin)
rows, copies = itertools.tee(reader)  # keeps only the rows between both
writer = csv.DictWriter(sys.stdout, [*(reader.fieldnames or []), "sentiment"])
writer.writeheader()

with Throttler(rpm=1_000) as throttler:
    for row, message in zip(rows, throttler.map(map(request, copies), return_exceptions=True)):
        failed = isinstance(message, Exception)
        answer = f"failed: {message}" if failed else message.content[0].text
        writer.writerow({**row, "sentiment": answer})
