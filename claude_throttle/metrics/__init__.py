"""Counters of events, and the delivery of events to listeners. Starts no thread, sends nothing."""
