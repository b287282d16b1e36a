"""Settings: their names, checks and environment variables."""
