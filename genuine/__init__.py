"""Modules written by tensorflow_hub's own exporter under TensorFlow 1.15, exported and compared with TensorFlow 1.15's own outputs."""
