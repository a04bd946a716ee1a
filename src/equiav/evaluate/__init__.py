"""How good an embedding is: retrieval with chance levels and intervals."""
