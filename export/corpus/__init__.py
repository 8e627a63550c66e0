"""Compares source and export on text corpora, line by line, on Apache Beam."""
