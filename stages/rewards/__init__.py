"""Reward mathematics: arrays in, arrays out; no model, no files, no console. One rule a file.

Shapes: R rollouts in M groups, S reasoning steps over all rollouts. `group` [R] says which group a rollout is
in; `rollout` [S] which rollout a step belongs to, `position` [S] its place there, from 0.
"""
