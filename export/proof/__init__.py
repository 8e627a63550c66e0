"""Proves that an exported encoder computes what its source does, and a preprocessor what the published rule says.

batch: what both sides are given. source_graph, source_run: what the source makes of it. exported: what the export makes of it.
reference, expected: what it comes to in float64. parity: the verdict. controls: wrong models that must fail it. certificate:
all of it together.
"""
