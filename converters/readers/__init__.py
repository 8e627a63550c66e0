"""Readers of sources, one module per format; every file is checked before it is used."""
