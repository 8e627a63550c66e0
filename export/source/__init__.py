"""Runs the graph of a TF1 Hub module in a sandboxed subprocess."""
