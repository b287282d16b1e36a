"""Find the titles of articles with a requests session, as many a tool does: raw_requests.py"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import requests

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages"

session = requests.Session()
session.headers["x-api-key"] = os.environ["ANTHROPIC_API_KEY"]
session.headers["anthropic-version"] = "2023-06-01"


def title(article):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": f"A title for: {article}"}],
    }
    try:
        response = session.post(URL, json=body, timeout=60)
        response.raise_for_status()
    except requests.RequestException as error:
        return f"failed: {error}"
    return response.json()["content"][0]["text"]


with open(sys.argv[1]) as file, ThreadPoolExecutor(30) as pool:
    for found in pool.map(title, file.read().splitlines()):
        print(found)
