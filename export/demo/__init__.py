"""Makes a TF1 Hub module of ALBERT: the source of the demo and of most tests.

The package shares no code with `converters`, so that the same mistake in reading and writing a module is noticed.
"""
