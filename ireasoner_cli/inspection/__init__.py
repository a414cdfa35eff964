"""`ireasoner inspect`: what a path is, its figures, its groups, and how a terminal shows them."""
