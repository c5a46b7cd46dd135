"""Embeddings that mean something."""
