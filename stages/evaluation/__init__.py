"""Reading what `eval` wrote: scores, how sure they are, and whether runs differ by more than chance."""
