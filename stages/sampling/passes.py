"""A pass: one kind of sample for each question, and what is asked for it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from PIL.Image import Image

from stages import images
from stages.contract import ANSWER, SOLVER, UNREADABLE, Row, trajectory_seed
from stages.errors import DataError, UsageError
from stages.images.views import both, check, shown
from stages.parsing import parse_tags
from stages.prompts import QUESTION, filled, placeholders
from stages.sampling.interface import Refused, Request

COMPLETION = "completion"  # the placeholder of all that the parent says
OF_A_PARENT = (COMPLETION, "think", "answer")  # placeholders of what an earlier row says
# What `score --target` calls the answers that are known, and the other files of an iteration of `run`.
TAKEN = ("known", "questions", "rollouts", "scored", "eval", "policy")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
SHARED = ("group_id", "group_index", "images", "images_sha256", "question")  # by the rows of a group
NO_IMAGES: Row = {"images": [], "images_sha256": []}


@dataclass(frozen=True)
class SolverPass:
    """`samples` rows of each group or, with `of`, of each row of that earlier pass, the parent.

    `prompt`, and `learn_prompt` where rows are to be learned on another, may hold `{question}`, and with `of` also
    `{completion}`, the parent's, and `{TAG}` for what its tags hold.
    """

    samples: int
    prompt: str
    name: str = ANSWER
    of: str | None = None
    no_image: bool = False
    view: str | None = None
    learn_prompt: str | None = None

    def check(self, there: list[str]) -> None:
        """Raises UsageError for a pass that cannot go beside those that are `there`."""
        check_name(self.name)
        if self.name in there:
            raise UsageError(f"there are rows of pass {self.name} already; name another --pass")
        if self.of is not None and self.of not in there:
            has = f"there are {', '.join(there)}" if there else "there are none yet"
            raise UsageError(f"--of {self.of}: no rows of that pass; {has}")
        if self.of is None and (told := self._wanted().intersection(OF_A_PARENT)):
            raise UsageError(
                f"the prompt of pass {self.name} holds {{{min(told)}}}, which an earlier row says; add --of PASS"
            )
        if self.view is not None:
            if self.no_image:
                raise UsageError("--view changes the pictures, and --no-image leaves them out; give one of them")
            check(self.view)

    def rows(self, group: list[Row]) -> Iterator[tuple[Row, Request]]:
        """The group's rows, still without completions, with their requests. Raises UnreadableImage, also for images
        that are missing or have changed."""
        proposal = group[0]
        prompts = list(self.prompts(group))
        pictures = _pictures(proposal) if prompts and not self.no_image else ()
        view = None if self.no_image else both(proposal["view"], self.view)
        if self.learn_prompt and proposal["view"] and prompts:
            raise UsageError("--learn-prompt is about the pictures as they are, and these questions are about a change")
        shared = {name: proposal[name] for name in SHARED} | (NO_IMAGES if self.no_image else {})
        for place, (parent, prompt, learn_prompt) in enumerate(prompts):
            seed = trajectory_seed(proposal["group_id"], SOLVER, place, self.name)
            row: Row = {
                **shared,
                **{"role": SOLVER, "pass": self.name, "sample_index": place, "parent_index": parent},
                **{"view": view, "prompt": prompt, "learn_prompt": learn_prompt, "seed": seed},
                **{"finish_reason": None, "reject_reason": None},
            }
            yield row, Request(shown(pictures, view, seed), prompt, seed)

    def prompts(self, group: list[Row]) -> Iterator[tuple[int | None, str, str | None]]:
        """What is asked in the group: for each of its rows the parent's sample_index, the prompt, and the one to learn
        on."""
        proposal, *there = group
        if not proposal["question"] or (proposal["reject_reason"] or "").startswith(UNREADABLE):
            return
        if self.of is None:
            yield from [(None, *self._texts({QUESTION: proposal["question"]}))] * self.samples
            return
        wanted = self._wanted()
        for parent in there:
            if (parent["pass"] or ANSWER) == self.of:
                values = _values(proposal, parent)
                if wanted <= values.keys():
                    yield from [(parent["sample_index"], *self._texts(values))] * self.samples

    def _wanted(self) -> set[str]:
        """The placeholders of its prompts."""
        return {*placeholders(self.prompt), *placeholders(self.learn_prompt or "")}

    def _texts(self, values: Mapping[str, str]) -> tuple[str, str | None]:
        return filled(self.prompt, values), None if self.learn_prompt is None else filled(self.learn_prompt, values)

    def settled(self, rows: list[Row], refused: Refused | None) -> list[Row]:
        """A group's rows when all are sampled, of which the last that the engine `refused`, if any. What is one prompt
        is refused as one: no rows, and the proposal says why. Of several, each row says so itself."""
        if refused is None or self.of is not None:
            return rows
        proposal, *others = rows
        reason = proposal["reject_reason"] or refused.reason
        return [proposal | {"reject_reason": reason}, *(row for row in others if (row["pass"] or ANSWER) != self.name)]


def check_name(name: str) -> None:
    """Raises UsageError for what no pass can be called."""
    if not NAME.fullmatch(name) or name in TAKEN:
        raise UsageError(
            f"--pass {name}: a name has lower-case letters, digits, - and _, and is none of {', '.join(TAKEN)}"
        )


def _values(proposal: Row, parent: Row) -> dict[str, str]:
    """What a prompt can hold of a row: nothing of one that was refused."""
    text = parent["completion"]
    if text is None:
        return {}
    return {**parse_tags(text), COMPLETION: text, QUESTION: proposal["question"]}


def _pictures(proposal: Row) -> tuple[Image, ...]:
    try:
        encoded = images.read_all(proposal)
    except DataError as error:
        raise images.UnreadableImage(f"{UNREADABLE}: {error}") from error
    return tuple(map(images.decode, encoded))
