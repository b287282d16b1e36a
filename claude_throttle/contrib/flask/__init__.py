"""For Flask: throttlers told by the application's configuration, and what belongs around them.

In the order of reading: ``extension.py`` (what an application is given), ``configuration.py`` (what
it may tell), ``refusals.py`` (503), ``command.py`` (``flask claude-throttle``) and
``status_page.py``.
"""

from claude_throttle.contrib.flask.extension import (
    ClaudeThrottle,
    current_throttler,
    current_throttlers,
)

__all__ = ["ClaudeThrottle", "current_throttler", "current_throttlers"]
