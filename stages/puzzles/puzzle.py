"""A question that asks for what was done to the pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Puzzle:
    """view: how the pictures are changed on the way to the model (stages/images/views.py). pictures: which are shown,
    in order, 0 for the group's own and 1 for the next one of the pool."""

    question: str
    target: str
    view: str
    pictures: tuple[int, ...] = (0,)
