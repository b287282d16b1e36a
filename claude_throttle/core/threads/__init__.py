"""Clocks, conditions, thread pools, and what survives a fork."""
