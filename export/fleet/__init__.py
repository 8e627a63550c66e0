"""Exports all unpublished versions of catalogs on Apache Beam, each in a subprocess."""
