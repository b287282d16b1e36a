"""Translate the lines of a file by the plain HTTP API: raw_httpx.py lines.txt"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

client = httpx.Client(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"},
    timeout=60,
)


def translate(line):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": f"In French: {line}"}],
    }
    response = client.post("/v1/messages", json=body)
    if response.status_code != 200:
        return f"failed: {response.status_code}"
    return response.json()["content"][0]["text"]


with open(sys.argv[1]) as file, ThreadPoolExecutor(30) as pool:
    for translated in pool.map(translate, file.read().splitlines()):
        print(translated)
