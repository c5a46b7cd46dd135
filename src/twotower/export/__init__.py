"""What is made of a run for use elsewhere: lists of everybody, vectors, towers."""
