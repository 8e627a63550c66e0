"""Release trees: where versions are, and how all files of one appear at once."""
