"""Reads saved graphs without running them: operations, functions, and the same graph in float64."""
