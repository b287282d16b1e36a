"""How many tokens a request takes, before the API has said so."""
