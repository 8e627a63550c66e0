"""Whole catalogs: every version that is not published yet, on Apache Beam, each in a process of its own."""
