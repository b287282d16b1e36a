"""Threads, time and quotas. Knows nothing of HTTP, files or frameworks."""
