"""`doctor`: what this machine is, and what will run on it."""
