"""Threads, locks, time, and what a fork or the end of the interpreter does to them."""
