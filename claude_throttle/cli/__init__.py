"""The command ``claude-throttle``: it uses the package's public names, as any program does.

Read ``main.py`` first, then one file per command: ``demo.py``, ``run.py``, ``limits.py``,
``fleet.py``, ``pause.py``, ``resume.py`` and ``serve_fake.py``. Here are the exit codes.
"""

from __future__ import annotations

#: Everything that was asked for was done.
ALL_WELL = 0
#: Some calls failed, or not everything was done.
SOME_FAILED = 1
#: Wrong usage or configuration; nothing was sent.
WRONG_USAGE = 2
#: Ctrl-C: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


class CannotStart(Exception):
    """Wrong usage or configuration, found before anything was sent.

    Its text is shown to the user, without a traceback; the exit code is :data:`WRONG_USAGE`.
    """
