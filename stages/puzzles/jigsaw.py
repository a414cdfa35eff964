"""In which order were the quarters of the picture put back? As in SSL4RL (arXiv 2510.16416)."""

import random

from stages.puzzles.puzzle import Puzzle

QUESTION = (
    "A picture was cut into four quarters: 1 top left, 2 top right, 3 bottom left, 4 bottom right. You see them put "
    "together again, perhaps in another order. Which quarter stands top left, top right, bottom left and bottom right? "
    "Answer with the four digits in this order, such as 1234."
)


def draw(draws: random.Random) -> Puzzle:
    order = "".join(draws.sample("1234", 4))
    return Puzzle(QUESTION, order, f"tiles:{order}")
