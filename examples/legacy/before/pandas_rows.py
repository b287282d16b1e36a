"""Add a column to a table, of which some cells are empty: pandas_rows.py tickets.csv"""

import sys
from concurrent.futures import ThreadPoolExecutor

import anthropic
import pandas

client = anthropic.Anthropic()


def request(text):
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": text}],
    }


def ask(request):
    try:
        return client.messages.create(**request)
    except Exception as error:
        return error


table = pandas.read_csv(sys.argv[1])
requests = [request(text) for text in table["text"]]
with ThreadPoolExecutor(30) as pool:
    results = list(pool.map(ask, requests))
table["answer"] = [
    f"failed: {one}" if isinstance(one, Exception) else one.content[0].text for one in results
]
table.to_csv(sys.stdout, index=False)
