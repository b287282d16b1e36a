"""The wire: from bytes to an outcome."""
