"""What is learned from: a rule a file."""
