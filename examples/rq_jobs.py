"""Background work by RQ: the jobs of any number of workers share one quota.

pip install '.[redis]' rq in the clone, then, in this directory and with ANTHROPIC_API_KEY set:

    python rq_jobs.py                             # a worker; as many as you like
    python rq_jobs.py "first text" "second text"  # in another terminal

RQ forks a process for each job. This worker has imported the SDK before, so that no job has to:
that takes a second or two. "rq worker" works, too, but imports it in each job.
"""

import os
import sys

import anthropic
from redis import Redis
from rq import Queue, Worker

from claude_throttle import Throttler

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

queue = Queue(connection=Redis.from_url(REDIS))

# Limits are learned from the answers, by all processes together; rpm=50 would set one.
throttler = Throttler(shared=REDIS)
client = anthropic.Anthropic(middleware=[throttler.middleware()])


def summarise(text):
    """Waits for its turn in its own process."""
    answer = client.messages.create(
        model="claude-haiku-4-5",
        max_tokens=200,
        messages=[{"role": "user", "content": f"Summarise in one sentence: {text}"}],
    )
    return answer.content[0].text


if __name__ == "__main__":
    texts = sys.argv[1:]
    if texts:
        # By name: RQ's processes import this file as a module.
        jobs = [queue.enqueue("rq_jobs.summarise", text) for text in texts]
        print("queued:", *(job.id for job in jobs))
    else:
        Worker([queue], connection=queue.connection).work()
