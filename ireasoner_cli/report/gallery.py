"""A sample of a run's groups, small enough to carry: pictures as thumbnails, long texts cut."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ireasoner_cli.agreement import divergence
from ireasoner_cli.inspection.groups import Answer, Group, is_changed, read_groups
from ireasoner_cli.report.figures import Candidate, Run, scored_files
from stages import images, shards
from stages.errors import DataError
from stages.rewards.explained import RewardTerms, Summands, reward_terms

THUMBNAIL = 320  # pixels of the longer side
PICTURE_BYTES = 8 << 20  # of all pictures in a page; about a third more as base64
TEXT = 600  # characters of a step or an answer that are shown
ROLLOUTS = 16  # of a group
STEPS = 16  # of a rollout


@dataclass(frozen=True)
class Step:
    """A reasoning step; similarity and its shade 0…1 are None where the step has no prototype, credit where it has no
    advantage of its own."""

    text: str
    similarity: float | None
    shade: float | None
    credit: float | None


@dataclass(frozen=True)
class Trajectory:
    """A rollout. `changed`: its reward is no longer the one that its terms make."""

    sample: int
    answer: str | None
    dominant: bool
    cut_short: bool
    steps: list[Step]
    more_steps: int
    row: dict[str, Any]
    terms: RewardTerms | Summands | None
    changed: bool


@dataclass(frozen=True)
class Card:
    """A group as the gallery shows it. pictures: data URLs, and where they lie; `problem` says why
    one is not there."""

    run: int
    iteration: str
    group: Group
    question: str
    pictures: list[str]
    paths: list[str]
    problem: str
    answers: list[Answer]
    trajectories: list[Trajectory]
    more: int
    kinds: list[str]
    reward: float
    divergence: float


def cards(run: Run, place: int, count: int, budget: "Budget") -> list[Card]:
    """Groups of the run, about `count` of them, iteration by iteration. Raises DataError for a damaged shard."""
    chosen = _choose(run, count)
    by_id = {candidate.group_id: candidate for candidate in chosen}
    result = []
    for index, iteration in enumerate(run.iterations):
        ids = [candidate.group_id for candidate in chosen if candidate.iteration == index]
        files = scored_files(iteration)
        for group in read_groups(files, shards.read_metadata(files[0]), ids):
            result.append(_card(run, place, iteration.name, group, by_id[group.id], budget))
    return result


def _choose(run: Run, count: int) -> list[Candidate]:
    """Groups spread over the iterations: of each the best, the worst, the one whose answers and the one whose steps
    differ most, then others evenly; and all that the step by step heat map shows."""
    if not count or not run.candidates:
        return []
    shown = {each.group_id for each in run.divergent}
    by_iteration: dict[int, list[Candidate]] = {}
    for candidate in run.candidates:
        by_iteration.setdefault(candidate.iteration, []).append(candidate)
    each = max(4, count // max(1, len(by_iteration)))
    spread = np.unique(np.linspace(0, len(by_iteration) - 1, max(1, min(len(by_iteration), count // each))).round())
    chosen = {candidate.group_id: candidate for candidate in run.candidates if candidate.group_id in shown}
    for index in spread.astype(int):
        own = by_iteration[sorted(by_iteration)[index]]
        even = [own[int(at)] for at in np.linspace(0, len(own) - 1, min(len(own), each)).round()]
        special = [
            max(own, key=lambda c: _or_less(c.reward)),
            min(own, key=lambda c: -_or_less(-c.reward)),
            max(own, key=lambda c: c.entropy),
            max(own, key=lambda c: _or_less(c.divergence)),
        ]
        for candidate in list({c.group_id: c for c in [*special, *even]}.values())[:each]:
            chosen[candidate.group_id] = candidate
    return list(chosen.values())


def _or_less(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def _card(run: Run, place: int, iteration: str, group: Group, candidate: Candidate, budget: "Budget") -> Card:
    pictures, problem = budget.thumbnails(group, run.path)
    paths = [_shown(picture["path"]) for picture in group.proposal["images"] or () if picture and picture["path"]]
    group.proposal["images"] = None  # thumbnails are all that is kept
    rollouts = group.rollouts[:ROLLOUTS]
    return Card(
        run=place,
        iteration=iteration,
        group=group,
        question=_cut(group.proposal["question"] or ""),
        pictures=pictures,
        paths=paths,
        problem=problem,
        answers=group.answers,
        trajectories=[_trajectory(row, group) for row in rollouts],
        more=len(group.rollouts) - len(rollouts),
        kinds=list(_kinds(group, candidate)),
        reward=candidate.reward,
        divergence=candidate.divergence,
    )


def _kinds(group: Group, candidate: Candidate) -> Sequence[str]:
    """What the filters call the group."""
    most = max((len(answer.samples) for answer in group.answers if answer.text is not None), default=0)
    share = most / max(1, sum(len(answer.samples) for answer in group.answers))
    kinds = ["unanimous" if share == 1 else "majority" if share > 0.5 else "split"]
    if any(answer.text is None for answer in group.answers):
        kinds.append("unanswered")
    if candidate.divergence > 0.01:
        kinds.append("divergent")
    return kinds


def _trajectory(row: dict[str, Any], group: Group) -> Trajectory:
    steps = row["steps"] or []
    similarities = row["step_similarity"] or [None] * len(steps)
    credit = row.get("step_credit") or [None] * len(steps)
    terms = reward_terms(row, group.score_params)
    return Trajectory(
        sample=row["sample_index"],
        answer=None if row["answer"] is None else _cut(row["answer"]),
        dominant=bool(row["dominant"]),
        cut_short=row["finish_reason"] == "length",
        steps=[
            Step(_cut(text), similarity, None if similarity is None else divergence(similarity), own)
            for text, similarity, own in zip(steps[:STEPS], similarities, credit, strict=False)
        ],
        more_steps=max(0, len(steps) - STEPS),
        row=row,
        terms=terms,
        changed=terms is not None and is_changed(row, terms),
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


class Budget:
    """Makes thumbnails until a page has enough of them."""

    def __init__(self, size: int = PICTURE_BYTES) -> None:
        self._left = size

    def thumbnails(self, group: Group, run: Path) -> tuple[list[str], str]:
        """The group's pictures as data URLs, up to the first that is not shown, and why that is not."""
        pictures = group.proposal["images"] or []
        hashes = group.proposal["images_sha256"] or [None] * len(pictures)
        shown: list[str] = []
        try:
            for picture, digest in zip(pictures, hashes, strict=False):
                shown.append(self._thumbnail(picture or {}, digest, run))
        except (DataError, images.UnreadableImage) as error:
            path = (pictures[len(shown)] or {}).get("path") or ""
            return shown, str(error).replace(path, _shown(path))
        return shown, "" if shown else "the question has no picture"

    def _thumbnail(self, image: dict[str, Any], digest: str | None, run: Path) -> str:
        """A data URL. Only a picture with the hash that the shard records is taken from a path: a shard from elsewhere
        must not be able to put this machine's files into a page that is passed on."""
        if self._left <= 0:
            raise DataError("left out: the page has its share of pictures")
        if image.get("bytes") is None and not digest:
            raise DataError("not shown: the shard records no hash of it")
        picture = images.decode(_read(image, digest, run))
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=82, method=4)
        self._left -= encoded.tell()
        return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _shown(path: str) -> str:
    """A path as a page has it that may be passed on: an absolute one tells of this machine, and is cut to its name."""
    return Path(path).name if Path(path).is_absolute() else path


def _read(image: dict[str, Any], digest: str | None, run: Path) -> bytes:
    """The picture at its path from the working directory, as recorded; else from the run's folder or those above."""
    problem: DataError | None = None
    for root in (Path(), run, *run.resolve().parents[:2]):
        path = image.get("path")
        try:
            return images.read({**image, "path": str(root / path) if path else path}, digest)
        except DataError as error:
            problem = problem or error
    raise problem or DataError("no picture")
