"""When a call may leave. Decides "not yet", never "never"; every method takes ``now``.

No thread, lock, clock or I/O here: the caller holds the lane's mutex, except for the concurrency
limiter, which belongs to all lanes of an account and has a lock of its own.
"""
