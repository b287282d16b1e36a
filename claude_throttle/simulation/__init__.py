"""Clients and servers in virtual time, without threads."""
