"""What a call will cost, estimated before it is sent and corrected by the answers."""
