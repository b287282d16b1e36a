"""Deciding when, never whether: "not yet". Reads no clock; every method takes ``now``."""
