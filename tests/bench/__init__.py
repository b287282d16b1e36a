"""The figures the package promises, measured side by side in one run: ``python -m tests.bench``.

No test: figures depend on the machine and its mood, so nobody's build fails by them. Every row
runs in a fresh process of its own, and the fake API in another, so that no row pays for what an
earlier one has imported, and the server's work is not taken for ours.
"""
