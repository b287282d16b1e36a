"""Where the instants of a quota live when several processes share it."""
