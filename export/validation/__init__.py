"""Proves that an exported encoder computes what its source does, and a preprocessor what the published rule says.

inputs: what both sides are given. exported_encoder: the export's outputs. parity: distances and bounds.
negative_controls: wrong models that must be refused. encoder_certificate: all of it together, with export.source for
the source's outputs and export.reference as an independent witness. preprocessor_certificate and text_certificate do
the same for the other models.
"""
