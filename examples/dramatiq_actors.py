"""Background work by Dramatiq: the actors of any number of processes share one quota.

pip install '.[redis]' dramatiq in the clone, then, here and with ANTHROPIC_API_KEY set:

    dramatiq dramatiq_actors
    python dramatiq_actors.py "first text" "second text"  # in another terminal
"""

import os
import sys

import anthropic
import dramatiq
from dramatiq.brokers.redis import RedisBroker

from claude_throttle import Throttler

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

broker = RedisBroker(url=REDIS)
dramatiq.set_broker(broker)

# Limits are learned from the answers, by all processes together; rpm=50 would set one.
throttler = Throttler(shared=REDIS)
client = anthropic.Anthropic(middleware=[throttler.middleware()])


# The client has tried again already, and what was answered is paid.
@dramatiq.actor(max_retries=0)
def summarise(text):
    """Waits for its turn in its own thread."""
    answer = client.messages.create(
        model="claude-haiku-4-5",
        max_tokens=200,
        messages=[{"role": "user", "content": f"Summarise in one sentence: {text}"}],
    )
    print(answer.content[0].text, flush=True)


if __name__ == "__main__":
    for text in sys.argv[1:]:
        summarise.send(text)
