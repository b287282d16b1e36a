"""The way of one call. Read in this order.

1. ``call.py``          what was asked, what it holds while it is out (``Attempt``), its future
2. ``worker.py``        the thread that lets tickets leave, one by one; ``waited_for.py`` says why
                        one did not
3. ``accounting.py``    what calls took from the quotas and what the server said, settled;
                        ``wire_time.py`` is how long an answer was on the wire
4. ``lane.py``          joins these; ``Lane.finish()`` is where every call ends, exactly once
5. ``permit.py``        the same way without the transport
6. ``stream_call.py``   the same way in the caller's own thread
7. ``drain.py``         waiting until everything has ended

Below: ``core/queueing`` says in which order tickets leave, ``core/pacing`` says when,
``core/threads`` carries them, ``core/domain`` holds the values all of them speak of.
"""
