"""Where tickets wait, and in which order they leave."""
