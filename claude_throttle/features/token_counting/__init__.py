"""``count_tokens="api"``: input tokens counted by the API before a call is queued."""
