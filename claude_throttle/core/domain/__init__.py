"""Frozen values that all other packages may use."""
