"""A search for better settings, on validation and within a stated time."""
