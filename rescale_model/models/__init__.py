"""What is trained: one model per network."""
