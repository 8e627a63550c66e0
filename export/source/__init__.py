"""The graph of a TF1 Hub module, run in a subprocess that is kept apart."""
