"""Checks of exports under other versions of TensorFlow; run by `make runtimes`."""
