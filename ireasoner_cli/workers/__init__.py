"""Several engines: each in a worker, a process that keeps it warm and takes the words of stages' commands.

    ["rollout", "--out", "it0002/.rollouts.parquet.parts", "--shard", "3/8", "--", "it0002/questions.parquet"]

can be read in a log and typed behind `ireasoner`. A stage's work is cut into as many parts as there are workers; each
part goes to the next that is free, to another where one is lost, and all of them are joined into the file that one
process writes.

    worker      what runs words, in a process of its own
    processes   workers on this machine      cluster, acting     workers as actors of Ray
    crew        words to workers, again where one is lost
    sampling    stages that sample: here, or in parts by a crew
"""
