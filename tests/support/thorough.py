"""Which tests are left out of the default run: ``pytest -m thorough`` runs them, too.

``CLAUDE_THROTTLE_THOROUGH=1`` gives property tests as many examples as they were written for.
"""

from __future__ import annotations

import os

import pytest

THOROUGH = os.environ.get("CLAUDE_THROTTLE_THOROUGH") == "1"


def examples(default, thorough):
    """How many examples a property test is tried on."""
    return thorough if THOROUGH else default


def only_thorough(*values, **options):
    """A parameter for the thorough run."""
    return pytest.param(*values, marks=pytest.mark.thorough, **options)
