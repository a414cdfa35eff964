"""Rows that were made of others: which, what they were told of them, and the numbers that they give."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from stages.contract import ANSWER
from stages.parsing import parse_tags
from stages.scoring.cells import Cells
from stages.scoring.chosen import Chosen


def parents(block: pa.Table, cells: Cells, passes: Collection[str], parent: Mapping[str, str]) -> np.ndarray:
    """The rollout that each of these `passes` was made of, −1 of those of others   [R]; parent: of each pass, which one
    it was made of."""
    sample = block["sample_index"].take(cells.row).to_pylist()
    names = np.array(cells.of_pass, dtype=object)[cells.cell]
    places = {key: place for place, key in enumerate(zip(cells.group.tolist(), names, sample, strict=True))}
    made_of = block["parent_index"].take(cells.row).to_pylist()
    found = np.full(len(sample), -1)
    for place in np.flatnonzero(cells.are(*passes)):
        key = (int(cells.group[place]), parent.get(names[place]), made_of[place])
        found[place] = places.get(key, -1)
    return found


def told(texts: Sequence[str], parent: np.ndarray, tags: Sequence[Collection[str]]) -> list[str]:
    """What each rollout was told of the one that it was made of [R], by the tags that its pass took from it."""
    said = ["" for _ in texts]
    for place in np.flatnonzero(parent >= 0):
        content = {**parse_tags(texts[parent[place]]), "completion": texts[parent[place]]}
        said[place] = "\n".join(content[tag] for tag in sorted(tags[place]) if tag in content)
    return said


def number_in(text: str | None, verdict: tuple[str, float, float]) -> float | None:
    """The number in a row's verdict tag, scaled from its bounds to [0, 1]; NaN for what is no number or outside of
    them; None without the tag. verdict: the tag's name, LO and HI."""
    tag, low, high = verdict
    content = parse_tags(text or "").get(tag.lower())
    if content is None:
        return None
    try:
        number = float(content)
    except ValueError:
        return math.nan
    return (number - low) / (high - low) if low <= number <= high else math.nan


def numbers(texts: Sequence[str], asked: np.ndarray, chosen: Chosen) -> np.ndarray:
    """Those of the rollouts that are `asked` [R] bool, NaN of the others and where there is none   [R]"""
    found = np.full(len(texts), np.nan)
    for place in np.flatnonzero(asked):
        number = number_in(texts[place], chosen.verdict)
        found[place] = math.nan if number is None else number
    return found


def verdict_passes(chosen: Chosen) -> set[str]:
    """The passes whose rows' numbers are looked at."""
    about = {name for term in ("verdict", "valid") for name in chosen.passes.about.get(term, ())}
    return about | (set(chosen.passes.rewarded) if "calibration" in chosen.solver_terms else set())


def dropped(rows: pa.Table, chosen: Chosen) -> int:
    """How many verdicts in the columns `pass` and `completion` were no number within the bounds."""
    looked_at = verdict_passes(chosen)
    names, texts = (rows[name].to_pylist() for name in ("pass", "completion"))
    return sum(
        (number := number_in(text, chosen.verdict)) is not None and math.isnan(number)
        for name, text in zip(names, texts, strict=True)
        if (name or ANSWER) in looked_at
    )
