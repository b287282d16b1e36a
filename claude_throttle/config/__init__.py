"""Settings: their names and defaults, their validation, and their environment variables.

``settings`` defines them, ``environment`` reads them as text, ``validation`` rejects wrong values,
``setting_names`` and ``wrong_use`` say what to write in place of a mistake, ``call_options`` has
the types of a call's keywords.
"""
