"""Paces requests that other clients send: those of the official SDK, ``httpx`` and ``requests``.

They take permits in the same lanes as the throttler's own calls, so one pace holds for all. Their
responses are read as they pass, for the usage and the limits, and are not changed.

One file for each client: ``sdk_middleware`` (with ``request_deadline``), ``httpx_transport`` and
``requests_adapter`` (with ``requests_session``). They share ``body_watcher``, ``sdk_retries``,
``one_admission`` (for a client that has two of them), ``httpx_refusals`` (how an error of ours
comes out of a client) and ``unpaced_requests`` (what is said of requests that pass).
"""
