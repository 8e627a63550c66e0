"""Reads pretrained ALBERT models and builds tf-models' AlbertEncoder from them.

Source formats come in through `source.open_source`; what goes out is a live model (`build_encoder.build`). Nothing here
knows how a model is published: this package never imports `export`.
"""
