"""Integrations: each file or folder joins claude_throttle to one package, which only it imports.

Their common parts, free of any framework, are :mod:`.throttlers`, :mod:`.unavailable`,
:mod:`.status`, :mod:`.fleet_cache` and :mod:`.gunicorn_options`. They use the public names only, as
an integration for another framework can.
"""
