"""Guests: each file joins claude_throttle to one other package, which it alone imports."""
