"""Where tickets wait, and in which order they come out."""
