"""From a table of trajectories to its score columns: which rewards are asked for (`chosen`), and their values
(`block`)."""
