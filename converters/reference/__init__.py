"""Implements ALBERT and its tokenization in NumPy and plain Python, as the independent reference of every proof."""
