"""What ``gunicorn helpdesk.wsgi`` reads by itself, and ``manage.py check --deploy`` looks at."""

# Calls wait in threads: a sync worker that waits for longer than 30 s is killed.
worker_class = "gthread"
threads = 8
# They share one quota by CLAUDE_THROTTLE's shared=.
workers = 2
