"""Several engines and learners: in workers, processes that keep one each warm and take the words of stages' commands.

    ["rollout", "--out", "it0002/.rollouts.parquet.parts", "--shard", "3/8", "--", "it0002/questions.parquet"]

can be read in a log and typed behind `ireasoner`. A stage's work is cut into as many parts as there are workers; each
part goes to the next that is free, to another where one is lost, and all of them are joined into the file that one
process writes. To learn, workers are given the same words at once, each as a rank:

    ["RANK=1", "WORLD_SIZE=8", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=…", "update", "--", "it0002/scored.parquet"]

    worker      what runs words, in a process of its own
    processes   workers on this machine      cluster, acting     workers as actors of Ray
    resident    what stays in a process: an engine and a learner's model, both on its GPU or in turns
    crew        words to workers, again where one is lost
    staff       stages that sample and learn: here, or by a crew
"""
