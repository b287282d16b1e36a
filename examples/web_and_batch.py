"""Visitors first: one throttler, one quota; a visitor's call is sent before the nightly work."""

from claude_throttle import DeadlineExceeded, Priority, QueueFull, Throttler

throttler = Throttler(rpm=600, max_queue=5_000)


def messages(text):
    return [{"role": "user", "content": text}]


def nightly(documents):
    """Thousands of these calls may wait; they are sent when no other call is waiting."""
    return [
        throttler.submit(
            model="claude-haiku-4-5",
            max_tokens=200,
            messages=messages(f"Summarise: {document}"),
            priority=Priority.BATCH,
        )
        for document in documents
    ]


def answer_visitor(question):
    """A web request waits for ten seconds at most, and then says that it is busy."""
    try:
        message = throttler.call(
            model="claude-haiku-4-5",
            max_tokens=200,
            messages=messages(question),
            priority=Priority.INTERACTIVE,
            timeout=10,
        )
        return message.content[0].text
    except (QueueFull, DeadlineExceeded) as error:
        return f"Busy, please come back in {error.retry_after or 10:.0f} s."


summaries = nightly(f"document {n}" for n in range(50))
print(answer_visitor("What are your opening hours?"))
print(sum(not future.done() for future in summaries), "summaries still to come")
throttler.close()
print(throttler.stats())
