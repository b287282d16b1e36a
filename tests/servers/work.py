"""What every server here does: throttlers at module level, some of them used at import."""

from __future__ import annotations

import os
import threading
from typing import Any

from claude_throttle.core.pacing.backoff import backoff
from tests.servers.asking import ask, echo, look, note_answer, throttler, wait_until_idle

cold = throttler()
warm = throttler()
#: Its calls wait for a while.
paused = throttler()
#: One call of it is out, the others wait.
busy = throttler(max_concurrency=1)

importer = os.getpid()
warm.call(**ask("import"))
paused.pause()
unfinished = [paused.submit(**ask(f"late {n} of {importer}")) for n in range(2)]
if os.environ["BUSY"] == "yes":
    unfinished += [busy.submit(**ask(f"late {n} of {importer}")) for n in range(2, 5)]
    unfinished[2].add_done_callback(lambda _: paused.resume())
else:
    resume = threading.Timer(float(os.environ["RESUME_SECONDS"]), paused.resume)
    resume.daemon = True
    resume.start()
for future in unfinished:
    future.add_done_callback(note_answer)
if os.environ["BUSY"] == "no":
    wait_until_idle()

#: The first jitter of each process.
jitters: dict[int, float] = {}


def report(nonce: str) -> dict[str, Any]:
    """Ask with a nonce; what came back, from where, and what became of what was inherited."""
    pid = os.getpid()
    copies = [look(future) for future in unfinished] if pid != importer else []
    throttlers = enumerate((cold, warm, paused, busy))
    answers = [echo(used.call(**ask(f"{nonce} {n}"))) for n, used in throttlers]
    if nonce.startswith("leaving-"):
        left = nonce.replace("leaving-", "")
        cold.submit(**ask(f"{left} left")).add_done_callback(note_answer)
    told = {"pid": pid, "nonce": nonce, "answers": answers}
    told["jitter"] = jitters.setdefault(pid, backoff(1))
    return {**told, "importer": importer, "calls": len(unfinished), "copies": copies}
