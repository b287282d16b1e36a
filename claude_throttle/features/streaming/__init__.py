"""Calls whose answers come event by event."""
