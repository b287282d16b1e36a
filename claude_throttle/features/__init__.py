"""One folder for each feature; any of them may be deleted without touching another."""
