"""What several test modules use: calls to make, ways to wait, programs and servers to run.

Test modules import from here and from the package, never from one another. A ``conftest.py`` holds
fixtures only.
"""
