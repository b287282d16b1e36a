"""The corridor: the way of one call. Read it in this order.

1. ``call.py``        what was asked: a body, a place in the line (``ticket.py``), a future
2. ``backlog.py``     where calls wait: in which order, ``line.py`` and ``fairness.py`` say
3. ``lane.py``        one per set of models that share limits: what waits, what is out, one pace
4. ``worker.py``      the thread that lets them leave, one by one
5. ``senders.py``     the threads that carry them (``mailbox.py``: how each is told)
6. ``attempts.py``    one call on the wire: each send, each wait for another turn
7. ``accounts.py``    what it took and what the server said (``heard.py``), booked as it ends
8. ``settlement.py``  where every call ends, exactly once
9. ``permit.py``      the same way without the wire
10. ``stream_call.py`` the same way in the caller's own thread (``abandoned.py``: what he drops)
11. ``events.py``     what happened, told in the past tense
12. ``clock.py``      the only reader of time

The corridor knows no room. What it needs of them, ``rooms.py`` names as Protocols.
"""
