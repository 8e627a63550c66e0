"""Reads pretrained ALBERT models and builds tf-models' AlbertEncoder from them.

`source.open_source` reads a source format, and `build_encoder.build` returns a model in memory. Publishing is not part
of this package: it never imports `export`.
"""
