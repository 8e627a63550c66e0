"""Proves that an exported encoder computes what its source does, and a preprocessor what the published rule says.

batch: the inputs of both sides. source_graph, source_session, source_run: the source's outputs. exported: the export's outputs. widen: float64
for both. reference, expected: an independent evaluation. parity: distances and bounds. controls: wrong models that must be refused.
certificate: all of it together.
"""
