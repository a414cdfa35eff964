"""Learning: the model with its two adapters, the loss, baselines and KL control, one optimizer step.

`loss` takes plain tensors and needs no model; the rules that it and the learner go by are in `advantages`, `losses`
and `kl`. `model` runs the model; `control` is plain numbers; `learner` puts them together and holds what is carried
from step to step. `batches` makes what it learns from of a shard's rows, `checkpoints` keeps it on disk.
"""
