"""Mutations of the product, each of which must make a test fail: `python -m mutants` checks that."""
