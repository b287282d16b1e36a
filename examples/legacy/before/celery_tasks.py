"""Summaries in the background; a task never fails, its text says what went wrong."""

import os

import anthropic
from celery import Celery

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
app = Celery("celery_tasks", broker=REDIS, backend=REDIS)

client = anthropic.Anthropic()


@app.task
def summarise(text):
    try:
        message = client.messages.create(
            model="claude-haiku-4-5",
            max_tokens=100,
            messages=[{"role": "user", "content": f"Summarise: {text}"}],
        )
        return message.content[0].text
    except Exception as e:
        return str(e)
