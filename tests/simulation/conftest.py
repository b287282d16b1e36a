"""What simulations leave behind."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def _collected_here():
    """A simulated thread that is dropped amid a wait holds a lock of the thread that ran it.

    The garbage collector of another test's thread could not release it, and would complain there.
    """
    yield
    gc.collect()
