"""Existing code that sends its own requests: acquire a permit around each."""

import os

import requests

from claude_throttle import Throttler

throttler = Throttler(rpm=1_000, itpm=500_000)
base_url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")


def count_words(text):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"How many words? {text}"}],
    }
    with throttler.permit(model=body["model"], input_tokens=len(text) / 4, max_tokens=50) as permit:
        response = requests.post(
            f"{base_url}/v1/messages",
            json=body,
            headers={
                "x-api-key": os.environ["ANTHROPIC_API_KEY"],
                "anthropic-version": "2023-06-01",
            },
            timeout=600,
            allow_redirects=False,
        )
        permit.settle(response)
    response.raise_for_status()
    return response.json()["content"][0]["text"]


print(count_words("to be or not to be"))
