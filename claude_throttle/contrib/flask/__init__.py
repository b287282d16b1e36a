"""Flask: throttlers that are configured in ``app.config``.

Read ``extension.py`` first, then ``configuration.py`` (the keys), ``refusals.py`` (503 responses),
``command.py`` (``flask claude-throttle``) and ``status_page.py``.
"""

from claude_throttle.contrib.flask.extension import (
    ClaudeThrottle,
    current_throttler,
    current_throttlers,
)

__all__ = ["ClaudeThrottle", "current_throttler", "current_throttlers"]
