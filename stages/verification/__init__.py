"""A chain of files read again, and made again, to see that it is what it says."""
