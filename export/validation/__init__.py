"""Proves parity of exported models with their sources.

exported_encoder runs the export. parity has the bounds. negative_controls has wrong models that must fail.
encoder_certificate combines them with the source's outputs (export.source) and an independent reference
(converters.reference). preprocessor_certificate and text_certificate prove the other models. golden_file and
previous_version compare a release with golden outputs and with its predecessor.
"""
