"""Checkpoints: finding one, looking it over, loading it, and the prompt as it reads it."""
