"""The command ``claude-throttle``: a caller of the front door, like any other program.

Read ``main.py`` first, then one file per command (``demo.py``, ``run.py``, ``serve_fake.py``).
"""
