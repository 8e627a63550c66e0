"""Makes one release: from a request to its record, card and archive."""
