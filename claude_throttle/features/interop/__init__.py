"""Paces requests that other clients send: those of the official SDK, ``httpx`` and ``requests``.

They take permits in the same lanes as the throttler's own calls, so one pace holds for all. Their
responses are read as they pass, for the usage and the limits, and are not changed.
"""
