"""Frozen values that every other package may speak of."""
