"""A library: one Lance table of clips, one of rejects, in a folder."""
