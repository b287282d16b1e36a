"""Testing mode: canned answers in place of the network."""
