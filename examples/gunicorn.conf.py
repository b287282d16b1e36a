"""``gunicorn -c examples/gunicorn.conf.py``, from the folder above.

It uses threads, since a call to Claude mostly waits. A ``sync`` worker serves one request at a
time, and is killed if that one waits for longer than ``timeout``, in the queue or for an answer. A
thread may wait; its worker stays alive.
"""

wsgi_app = "examples.flask_app:create_app()"

# With more than one, give all throttlers a shared=, or each worker uses the whole quota.
workers = 1
worker_class = "gthread"
threads = 32  # requests at once: those that wait for Claude, and all others

# Seconds in which requests and submitted calls are finished when the server is stopped.
graceful_timeout = 30
