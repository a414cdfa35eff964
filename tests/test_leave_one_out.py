"""Leave-one-out agreement, recovered from the stored similarities, is that of the embeddings themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.rewards.explained import RewardTerms, reward_terms
from stages.rewards.leave_one_out import leave_one_out
from stages.rewards.step import step_similarity


def unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


@given(st.integers(2, 9), st.integers(2, 16), st.floats(0.0, 3.0), st.integers(0, 2**32 - 1), st.booleans())
def test_it_equals_the_cosine_to_the_others_prototype(
    members: int, width: int, spread: float, seed: int, with_an_empty_step: bool
) -> None:
    rng = np.random.default_rng(seed)
    embedding = unit(rng.normal(size=width) + spread * rng.normal(size=(members, width)))
    if with_an_empty_step:
        embedding[0] = 0  # a step without tokens
    similarity = step_similarity(embedding, np.zeros(members, int))
    others = np.array([unit(np.delete(embedding, i, 0).sum(0, keepdims=True))[0] for i in range(members)])
    direct = np.einsum("md,md->m", embedding, others)
    assert np.allclose(leave_one_out(similarity), direct, atol=1e-5)


def test_two_opposite_steps_have_no_direction_in_common() -> None:
    assert leave_one_out(np.array([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_the_terms_of_a_reward_make_it_up_again() -> None:
    row = {"answer_prob": 0.6, "r_answer": 0.66, "density": 0.7, "r_step": 0.63, "step_weight": 0.4}
    mixed = reward_terms({**row, "reward": 0.6 * 0.66 + 0.4 * 0.63}, {"answer_exponent": 0.7, "reward": "mixed"})
    assert isinstance(mixed, RewardTerms) and mixed.brevity is not None and mixed.agreement is not None
    assert np.isclose(mixed.from_answer + mixed.from_steps, 0.6 * 0.66 + 0.4 * 0.63)
    assert np.isclose(mixed.confidence * mixed.brevity, 0.66) and np.isclose(mixed.confidence, 0.6**0.7)
    assert np.isclose(mixed.density * mixed.agreement, 0.63)
    steps_alone = reward_terms({**row, "reward": 0.63}, {"answer_exponent": 0.7, "reward": "step"})
    assert isinstance(steps_alone, RewardTerms)
    assert (steps_alone.from_answer, steps_alone.from_steps) == (0.0, 0.63)
    assert reward_terms({**row, "reward": None}, {}) is None
    scaled = {"factor": "verdict:0.8:1.2", "answer_exponent": 0.7, "reward": "mixed"}
    factored = reward_terms({**row, "reward": 1.1 * 0.648, "r_verdict": 0.75}, scaled)
    assert isinstance(factored, RewardTerms)
    assert np.isclose(factored.from_answer + factored.from_steps, 1.1 * 0.648)
