"""Read by setup.cfg, so it stays this simple."""

__version__ = "0.1.0"
