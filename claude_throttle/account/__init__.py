"""What belongs to one API key: its lanes, their limits, its suspension."""
