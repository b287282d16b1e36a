"""Integrations: each file or folder joins claude_throttle to one package, which only it imports."""
