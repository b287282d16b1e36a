"""``gunicorn -c examples/gunicorn.conf.py``, from the folder above.

Threads, since a call to Claude mostly waits. A ``sync`` worker serves one request at a time, and is
killed if that one waits for longer than ``timeout``: in our queue, or for a slow answer. A thread
may wait; its worker stays alive.
"""

wsgi_app = "examples.flask_app:create_app()"

# With more than one, tell all throttlers a shared=, or each worker uses the whole quota.
workers = 1
worker_class = "gthread"
threads = 32  # requests at once: those that wait for Claude, and all others

# Seconds for requests and submitted calls to be finished once it is told to stop.
graceful_timeout = 30
