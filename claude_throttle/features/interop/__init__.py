"""Paces requests that other clients send: the official SDK and sessions of ``requests``.

They take permits in the same lanes as the throttler's own calls, so one pace holds for all. Their
responses are read as they pass, for the usage and the limits, and are not changed.
"""
