"""Trials of the parity proof: it must accept right conversions and refuse wrong ones, for all kinds of weights."""
