"""Which tests need what old releases of the official SDK lack. There they are not collected.

What those releases do instead is asserted in tests/official_sdk/test_old_releases.py.
"""

from __future__ import annotations


def needs(*capabilities):
    """Mark a test, or a function that is a parameter of tests, by keys of CAPABILITIES.

    A whole module says so by a list of the name ``NEEDS``.
    """

    def mark(function):
        function.needs = capabilities
        return function

    return mark


def lacks(item):
    """Whether a collected test needs what the installed release lacks."""
    callspec = getattr(item, "callspec", None)
    values = [] if callspec is None else callspec.params.values()
    needed = {*getattr(item.module, "NEEDS", ()), *getattr(item.function, "needs", ())}
    for value in values:
        if callable(value):
            needed.update(getattr(value, "needs", ()))
    if not needed:
        return False
    from tests.support.sdk_releases import CAPABILITIES  # it imports the SDK

    return not all(CAPABILITIES[name] for name in needed)
