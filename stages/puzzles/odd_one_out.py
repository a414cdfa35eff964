"""Which of three pictures is not a part of the same scene as the other two?"""

import random

from stages.puzzles.puzzle import Puzzle

QUESTION = (
    "Two of these three pictures are parts of one and the same scene, and one is of another scene. "
    "Which one: 1, 2 or 3? Answer with the number alone."
)
SHARE = 0.7  # of each side: two parts of a picture have at least 0.4 of it in common, so that they can be told


def draw(draws: random.Random) -> Puzzle:
    odd = draws.randrange(3)
    return Puzzle(QUESTION, str(odd + 1), f"crop:{SHARE}", tuple(int(place == odd) for place in range(3)))
