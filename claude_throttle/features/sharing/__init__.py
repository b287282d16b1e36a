"""One quota for several processes, kept in a shared store."""
