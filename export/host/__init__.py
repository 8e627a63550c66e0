"""Serves a release tree over HTTP."""
