"""Requests that others send: the official SDK, and sessions of `requests`."""
