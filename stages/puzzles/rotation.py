"""By how many quarters of a turn was the picture turned? As in SSL4RL (arXiv 2510.16416)."""

import random

from stages.puzzles.puzzle import Puzzle

QUESTION = (
    "This picture may have been turned clockwise before you saw it, by 0, 90, 180 or 270 degrees. "
    "By how many degrees was it turned? Answer with the number alone."
)


def draw(draws: random.Random) -> Puzzle:
    degrees = draws.choice((0, 90, 180, 270))
    return Puzzle(QUESTION, str(degrees), f"turn:{degrees}")
