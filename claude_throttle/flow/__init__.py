"""The corridor: the way of one call. Read it in this order.

1. ``call.py``        what was asked: a body, a place in the line (``ticket.py``), a future
2. ``backlog.py``     where calls wait
3. ``lane.py``        the worker that lets them leave, one by one
4. ``senders.py``     the threads that carry them
5. ``attempts.py``    one call on the wire: each send, each wait for another turn
6. ``settlement.py``  where every call ends, exactly once
7. ``events.py``      what happened, told in the past tense
8. ``clock.py``       the only reader of time

The corridor knows no room. What it needs of them it names as a Protocol.
"""
