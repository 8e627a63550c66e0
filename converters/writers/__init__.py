"""Writers of other weight formats, from canonical weights."""
