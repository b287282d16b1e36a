"""When a call may leave. Decides "not yet", never "never"; every method takes ``now``."""
