"""Ten questions, one quota: submit them all, and print the answers as they come."""

from concurrent.futures import as_completed

from claude_throttle import Throttler

questions = [f"Name a river in country number {n} of the alphabet." for n in range(1, 11)]

with Throttler() as throttler:
    futures = {
        throttler.submit(
            model="claude-haiku-4-5",
            max_tokens=100,
            messages=[{"role": "user", "content": question}],
        ): question
        for question in questions
    }
    for future in as_completed(futures):
        print(futures[future], "->", future.result().content[0].text)

print(throttler.stats())
