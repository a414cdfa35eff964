"""One file a command: its options, and the call of its stage. Stages are imported when a command runs, so that
help costs nothing."""
