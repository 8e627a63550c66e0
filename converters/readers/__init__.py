"""Readers of sources: what each format holds, checked before it is used."""
