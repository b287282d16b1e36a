"""Rate reviews, one call a row, thirty threads: csv_threads.py reviews.csv > rated.csv"""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor

import anthropic
from claude_throttle import Throttler

http_client = anthropic.DefaultHttpxClient(transport=Throttler().transport())
client = anthropic.Anthropic(http_client=http_client)


def rate(row):
    message = client.messages.create(
        model="claude-haiku-4-5",
        max_tokens=20,
        temperature=0.0,
        messages=[{"role": "user", "content": f"One word, good or bad: {row['review']}"}],
    )
    return {**row, "rating": message.content[0].text}


with open(sys.argv[1], newline="") as file:
    rows = list(csv.DictReader(file))
writer = csv.DictWriter(sys.stdout, ["review", "rating"])
writer.writeheader()
with ThreadPoolExecutor(30) as pool:
    for future in [pool.submit(rate, row) for row in rows]:
        try:
            writer.writerow(future.result())
        except anthropic.APIError as error:
            print("not rated:", error, file=sys.stderr)
