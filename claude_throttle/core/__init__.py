"""Threads, time and quotas: nothing of HTTP, files or frameworks."""
