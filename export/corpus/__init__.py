"""Whole corpora of text: through the source and through what was exported from it, line by line, on Apache Beam."""
