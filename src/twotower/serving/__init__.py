"""A recommender over HTTP, and what it is told there, kept."""
