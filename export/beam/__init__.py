"""Apache Beam: how a pipeline is run, and files where Beam or tf.io.gfile reaches."""
