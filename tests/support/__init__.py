"""What several test modules and conftest.py use."""
