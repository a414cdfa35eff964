"""What `compare` reads, and draws."""
