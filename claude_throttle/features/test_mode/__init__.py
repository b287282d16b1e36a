"""Canned answers in place of a network."""
