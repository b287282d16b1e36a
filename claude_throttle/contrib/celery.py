"""For Celery. Import it where the app is made: that closes throttlers as a worker's children end.

They end without Python's exit hooks, so calls that a task submitted and did not wait for would be
lost, and what they were waiting for never known. Now each child finishes them, for as long as the
app's setting ``claude_throttle_shutdown_timeout`` says (seconds, 5 by default); what is left then
is cancelled, and raises :class:`claude_throttle.Closed`.
"""

from __future__ import annotations

from celery import current_app, signals  # type: ignore[import-untyped]

from claude_throttle.exit_hooks import close_all

#: Seconds for the calls that are left when a child ends.
SHUTDOWN_SECONDS = 5.0


def _close(**_arguments: object) -> None:
    close_all(float(current_app.conf.get("claude_throttle_shutdown_timeout", SHUTDOWN_SECONDS)))


signals.worker_process_shutdown.connect(_close, dispatch_uid="claude_throttle")
