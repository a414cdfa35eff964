"""Reward mathematics: arrays in, arrays out; no model, no files, no console. One rule a file.

    keys, logprobs ──votes──▶ weights ──consensus──▶ dominant answer ──▶ Rollouts ──terms────▶ a number a rollout
                                                                     └─▶ Groups ────proposer─▶ a number a group

The folders `terms`, `proposer` and `votes` hold choices by name: a file is a choice, named as the file is.
`expression` reads a weighted sum of terms and `combination` takes it; `selection` says what is learned from.
`custom`, a user's own term, is the one module that reads a file.

Shapes: R rollouts in M groups, S reasoning steps over all rollouts. `group` [R] says which group a rollout is
in; `rollout` [S] which rollout a step belongs to, `position` [S] its place there, from 0.
"""
