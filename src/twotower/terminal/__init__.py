"""What the command line shows: bars, tables and sentences."""
