"""``python -m claude_throttle`` is ``claude-throttle``."""

from __future__ import annotations

import sys

from claude_throttle.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
