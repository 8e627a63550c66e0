"""Helpers of several test modules and conftest.py."""
