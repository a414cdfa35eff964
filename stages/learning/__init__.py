"""Learning: the model with its two adapters, the loss, baselines and KL control, one optimizer step.

`loss` takes plain tensors and needs no model; the rules that it and the learner go by are in `advantages`, `losses` and
`kl`. `model` runs the model, over transformers' own layers: `prefix` and `cache` are what is kept of a prompt for what
stands behind it, `attention`, `lean`, `again` and `checkpointing` how layers keep little, and `checking` is why one may
believe it of a family. `control` and `drift` are plain numbers; `learner` puts them together and holds what is carried
from step to step, `rows` is what it takes. `batches` makes that of a shard's rows, `contexts` being what these stand
behind; `beforehand` is what is measured before the first step, `last_token` what is learned beside the loss, and
`checkpoints` keeps all of it on disk.
"""
