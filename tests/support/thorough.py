"""Which tests are left out of the default run: ``pytest -m thorough`` runs them, too.

``CLAUDE_THROTTLE_THOROUGH=1`` gives property tests as many examples as they were written for.
"""

from __future__ import annotations

import inspect
import os

import pytest
from hypothesis import given, settings

THOROUGH = os.environ.get("CLAUDE_THROTTLE_THOROUGH") == "1"

#: For what takes more than the usual time limit in the thorough run.
LONG = pytest.mark.timeout(600)


def examples(default, thorough):
    """How many examples a property test is tried on."""
    return thorough if THOROUGH else default


def only_thorough(*values, **options):
    """A parameter for the thorough run."""
    return pytest.param(*values, marks=(pytest.mark.thorough, LONG), **options)


def tried(*strategies, few, how, **named):
    """As hypothesis.given: on *few* examples; in the thorough run on as many as *how* has.

    *how* is a hypothesis.settings. Of a test with other arguments the strategies are named.
    """

    def decorate(check):
        def judged(examples):
            return settings(how, max_examples=examples)(given(*strategies, **named)(check))

        def test(examples, **fixtures):
            judged(examples)(**fixtures)

        test.__name__, test.__doc__, test.__module__ = (
            check.__name__,
            check.__doc__,
            check.__module__,
        )
        left = inspect.signature(judged(few)).parameters.values()
        examples = inspect.Parameter("examples", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = inspect.Signature(
            [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in left), examples]
        )
        counts = [few, only_thorough(how.max_examples)]
        return pytest.mark.parametrize("examples", counts)(test)

    return decorate
