"""Settings: their names and defaults, their validation, and their environment variables.

``settings`` defines them, ``environment`` reads them as text, ``validation`` rejects wrong values.
"""
