"""ALBERT and its tokenization in NumPy and plain Python: the independent witness of every proof."""
