"""Checks of releases of modules that tensorflow_hub wrote under TensorFlow 1.15, against outputs of TensorFlow 1.15."""
