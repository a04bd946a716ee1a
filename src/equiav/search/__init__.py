"""Embeddings of a library's clips, and exact search in them."""
