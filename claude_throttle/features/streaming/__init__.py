"""``throttler.stream()``: calls whose answers are read event by event."""
