"""Clients and servers in virtual time, without threads.

:mod:`.simulation` runs one client, :mod:`.fleet_simulation` many processes that share a quota; both
use the product's own lanes and pacers. :mod:`.quotas` is also what the fake server enforces.
"""
