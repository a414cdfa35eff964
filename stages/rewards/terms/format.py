"""The form that was asked for, and nothing else."""

import re
from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams

_TAG = re.compile(r"(<[ \t]*+/?[ \t]*+(?:think|answer)[ \t]*+>)", re.IGNORECASE)  # what the parser takes for one


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = 1 for one think block with a step in it, then one answer tag with text in it, and white space around; else 0
    [R]"""
    stepwise = np.bincount(rollouts.rollout, minlength=len(rollouts.texts)) > 0
    return (stepwise & np.array([_is_in_form(text) for text in rollouts.texts], dtype=bool)).astype(np.float64)


def _is_in_form(text: str) -> bool:
    before, *pieces = _TAG.split(text)
    tags = ["".join(tag.split()).lower() for tag in pieces[::2]]
    if tags != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    _, between, answer, after = pieces[1::2]
    return bool(answer.strip()) and not (before + between + after).strip()
