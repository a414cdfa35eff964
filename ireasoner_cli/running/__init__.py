"""`ireasoner run`: the loop over the stages' own commands, what it watches for, and what it shows."""
