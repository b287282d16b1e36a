"""Input tokens counted by the API before a call is queued."""
