"""Makes a TF1 Hub module of ALBERT on the spot: the demo's source, and the source of most tests.

Nothing here is shared with ``converters``: a mistake made in reading a module must not be able to hide behind the
same mistake made in writing it.
"""
