"""Reads release trees, and publishes all files of a release at once."""
