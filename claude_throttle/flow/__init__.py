"""The corridor: the way of one call. Read it in this order.

1. ``call.py``        what was asked: a body, a place in the line (``ticket.py``), a future
2. ``backlog.py``     where calls wait
3. ``lane.py``        one per model: what waits, what is out, one pace for both
4. ``worker.py``      the thread that lets them leave, one by one
5. ``senders.py``     the threads that carry them
6. ``attempts.py``    one call on the wire: each send, each wait for another turn
7. ``settlement.py``  where every call ends, exactly once
8. ``permit.py``      the same way without the wire
9. ``events.py``      what happened, told in the past tense
10. ``clock.py``      the only reader of time

The corridor knows no room. What it needs of them, ``rooms.py`` names as Protocols.
"""
