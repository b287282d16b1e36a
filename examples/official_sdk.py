"""Existing code with the official SDK, and with requests: one line each, one pace for all."""

import os

import anthropic
import requests

from claude_throttle import Throttler

throttler = Throttler(rpm=1_000, itpm=500_000)
base_url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")

# The SDK: each attempt is paced, including its own retries. max_retries may stay as it is.
client = anthropic.Anthropic(middleware=[throttler.middleware()])

# A session of requests.
session = requests.Session()
session.mount(base_url, throttler.adapter())

question = {"model": "claude-haiku-4-5", "max_tokens": 50}

message = client.messages.create(**question, messages=[{"role": "user", "content": "One."}])
print(message.content[0].text)

# A stream counts as in flight until it ends, or is closed.
with client.messages.stream(**question, messages=[{"role": "user", "content": "Two."}]) as stream:
    print("".join(stream.text_stream))

answer = session.post(
    f"{base_url}/v1/messages",
    json={**question, "messages": [{"role": "user", "content": "Three."}]},
    headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"},
    timeout=600,
    allow_redirects=False,
)
print(answer.json()["content"][0]["text"])
