"""Tables in, rows out."""
