"""From embeddings to a list."""
