"""Runs Apache Beam pipelines, and accesses files through Beam or tf.io.gfile."""
