"""Frozen values that all other packages may use. Nothing here waits, locks or reads the time."""
