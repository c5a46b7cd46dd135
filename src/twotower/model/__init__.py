"""Rows in, embeddings out."""
