"""Long runs by command (`make campaign-…`), and their small versions that the tests run from the same code."""
