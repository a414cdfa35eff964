"""The form that was asked for, and nothing else."""

import re
from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = 1 for one of each tag of the `form`, in its order and with text in it, a think block with a step in it, and
    white space around; else 0   [R]"""
    form = [name.strip().lower() for name in constants.form.split(",")]
    tag = re.compile(rf"(<[ \t]*+/?[ \t]*+(?:{'|'.join(map(re.escape, form))})[ \t]*+>)", re.IGNORECASE)
    in_form = np.array([_is_in_form(text, form, tag) for text in rollouts.texts], dtype=bool)
    if "think" in form:
        in_form &= np.bincount(rollouts.rollout, minlength=len(rollouts.texts)) > 0
    return in_form.astype(np.float64)


def _is_in_form(text: str, form: list[str], tag: re.Pattern[str]) -> bool:
    """tag: what the parser takes for one of the form."""
    before, *pieces = tag.split(text)
    tags = ["".join(each.split()).lower() for each in pieces[::2]]
    if tags != [each for name in form for each in (f"<{name}>", f"</{name}>")]:
        return False
    inside, between = pieces[1::4], pieces[3::4]
    return all(text.strip() for text in inside) and not (before + "".join(between)).strip()
