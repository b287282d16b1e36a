"""What the default run leaves out: ``pytest -m thorough`` runs it."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, settings

#: For what takes more than the usual time limit in the thorough run.
LONG = pytest.mark.timeout(600)


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
