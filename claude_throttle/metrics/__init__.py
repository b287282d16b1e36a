"""What happened, counted."""
