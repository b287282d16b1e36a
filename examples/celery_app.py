"""Background work: any number of Celery workers share one quota, and no worker only waits.

pip install '.[celery,redis]' in the clone, then, in this directory and with ANTHROPIC_API_KEY set:

    celery --app celery_app worker --concurrency 4
    python celery_app.py "first text" "second text" …          # in another terminal

A task that would wait for more than two seconds is queued again, and keeps its position.
"""

import os
import sys

from celery import Celery

from claude_throttle import Throttler
from claude_throttle.contrib.celery import ClaudeTask

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

# The module's name, so that tasks have the same name when this file is run as a program.
app = Celery("celery_app", broker=REDIS, backend=REDIS)
app.conf.worker_prefetch_multiplier = 1

# Limits are learned from the answers, by all processes together; rpm=50 would set one.
throttler = Throttler(shared=REDIS)


@app.task(base=ClaudeTask, bind=True, throttler=throttler)
def summarise(self, text):
    """May run from its beginning more than once, so it calls Claude before anything else."""
    answer = self.ask_claude(
        model="claude-haiku-4-5",
        max_tokens=200,
        messages=[{"role": "user", "content": f"Summarise in one sentence: {text}"}],
    )
    return answer.content[0].text


if __name__ == "__main__":
    results = [summarise.delay(text) for text in sys.argv[1:]]
    for result in results:
        print(result.get(timeout=600))
