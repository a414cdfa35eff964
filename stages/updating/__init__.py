"""What `update` is made of, beside the learner: what is asked of it, what it makes, what it says."""
