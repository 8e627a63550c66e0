"""Formats output for people: terminal, report page, trace, and the sentence on a certificate."""
