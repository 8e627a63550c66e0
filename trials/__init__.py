"""Trials of the parity proof: it must accept right conversions and refuse wrong ones, whatever the weights."""
