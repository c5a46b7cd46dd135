"""A run on one page that is read offline."""
