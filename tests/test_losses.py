"""The rules of the update, each against worked numbers, against autograd, and by what must hold of it."""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stages.learning import advantages as advantage_rules
from stages.learning import kl as kl_rules
from stages.learning import loss as losses
from stages.learning import losses as loss_rules
from stages.learning.advantages import Advantage
from stages.learning.control import next_kl_coef
from stages.learning.kl import Kl
from stages.learning.last_token import LastToken, balanced, last_token_loss
from stages.learning.loss import Head, LossRule, Tokens, loss_terms, token_logprobs
from stages.learning.losses import Loss
from stages.learning.losses.bounds import Bounds
from stages.learning.losses.dpo import pair_loss
from stages.learning.losses.token_loss import TokenLoss

SIX_DECIMALS = 6e-7
BOUNDS = Bounds(dual=3.0)
Floats = Sequence[float] | np.ndarray
RELATIVE: tuple[Advantage, ...] = ("mean", "grpo", "leave-one-out")  # to the group alone
REWARDS = st.lists(st.floats(-10, 10), min_size=1, max_size=16)
SPREAD = st.lists(st.integers(-20, 20).map(lambda tenths: tenths / 10), min_size=2, max_size=16).filter(
    lambda rewards: len(set(rewards)) > 1
)
LOG_RATIOS = st.floats(-3, 3)


def advantages(name: Advantage, rewards: Sequence[float], moving: float = 0.0) -> list[float]:
    return advantage_rules.load(name)(rewards, moving)


def token_loss(
    name: Loss, advantage: Sequence[float], ratio: Sequence[float], bounds: Bounds = BOUNDS, logprob: float = -0.7
) -> TokenLoss:
    """Of tokens whose π/μ is `ratio`, all with the same log π, in float64."""
    logprobs = torch.full((len(ratio),), logprob, dtype=torch.float64)
    sampled = logprobs - torch.log(torch.tensor(ratio, dtype=torch.float64))
    return loss_rules.load(name)(logprobs, sampled, torch.tensor(advantage, dtype=torch.float64), bounds)


def divergence(name: Kl, p: Floats, q: Floats, forbidden: int = 0) -> tuple[float, list[float]]:
    """KL and its gradient for one position, behind whose tokens `forbidden` more cannot be sampled."""
    logp, logq = (
        torch.tensor([[*map(math.log, x), *[-math.inf] * forbidden]], dtype=torch.float64).log_softmax(-1)
        for x in (p, q)
    )
    outside = torch.arange(len(p), len(p) + forbidden)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    kl, gradient = kl_rules.load(name)(logp, logq, outside, one, zero)
    return float(kl), gradient[0].tolist()


# -------------------------------------------------------------------------------------- advantages


def split(right: int, wrong: int) -> list[float]:
    return [1.0] * right + [0.0] * wrong


WORKED: list[tuple[Advantage, list[float], list[float]]] = [
    ("grpo", split(6, 4), [0.774595] * 6 + [-1.161893] * 4),
    ("leave-one-out", split(6, 4), [0.444444] * 6 + [-0.666667] * 4),
    ("mean", split(6, 4), [0.4] * 6 + [-0.6] * 4),
    ("grpo", split(1, 9), [2.846041] + [-0.316227] * 9),
    ("grpo", split(9, 1), [0.316227] * 9 + [-2.846041]),
    ("grpo", split(10, 0), [0.0] * 10),
    ("grpo", split(3, 2), [0.730295] * 3 + [-1.095443] * 2),
    ("grpo", split(5, 5), [0.948682] * 5 + [-0.948682] * 5),
    ("grpo", split(4, 6), [1.161893] * 4 + [-0.774595] * 6),
    ("grpo", split(3, 7), [1.449135] * 3 + [-0.621058] * 7),
    ("grpo", split(7, 3), [0.621058] * 7 + [-1.449135] * 3),
    ("grpo", split(5, 3), [0.724567] * 5 + [-1.207612] * 3),
    ("grpo", split(2, 2), [0.866024] * 2 + [-0.866024] * 2),
    ("grpo", [0.25, 0, 0, 0.55], [0.191272, -0.765089, -0.765089, 1.338906]),
    ("grpo", [0.625, 0.225, 0, 0.675], [0.751667, -0.481838, -1.175685, 0.905856]),
    ("grpo", [-0.25, -0.45, -0.75, 0.15], [0.198679, -0.331132, -1.125850, 1.258302]),
    ("grpo", [0.75, 0.75, 0, 0], [0.866023] * 2 + [-0.866023] * 2),
    ("grpo", [0.25, 0.25, -0.15, -1.25], [0.670077, 0.670077, 0.105802, -1.445956]),
    ("grpo", [-1 / 4096] * 7 + [-2 / 4096], [0.349504] * 7 + [-2.446530]),
    ("grpo", [2.0, 1.0, 0.1, 1.0], [1.256104, -0.032208, -1.191688, -0.032208]),
    ("grpo", [1.1, 1.1, 0.1, 0], [0.864067, 0.864067, -0.781775, -0.946359]),
    ("grpo", [1.1, 0.1, 0, 1.1], [0.864067, -0.781775, -0.946359, 0.864067]),
    ("grpo", [2.0, 1.0, 2.0, 0.1, 1.0], [0.973479, -0.274571, 0.973479, -1.397816, -0.274571]),
    ("grpo", [0.775, 0.1, 0.9, 0.55], [0.550420, -1.367171, 0.905529, -0.088777]),
    ("grpo", [2.286188, 0.4032, 0, 3.587], [0.428352, -0.696444, -0.937294, 1.205387]),
]


@pytest.mark.parametrize(("name", "rewards", "expected"), WORKED)
def test_advantages_by_hand(name: Advantage, rewards: list[float], expected: list[float]) -> None:
    assert advantages(name, rewards) == pytest.approx(expected, abs=SIX_DECIMALS)


def test_advantages_over_a_moving_average() -> None:
    """The first group of a run, whose own mean is the average."""
    prob, words = np.array([0.6, 0.6, 0.6, 0.2, 0.2]), np.array([4, 6, 9, 12, 20])
    rewards = (prob**0.7 * (1 - 0.1 * np.clip((words - 6) / 6, 0, 1))).tolist()
    found = advantages("ema", rewards, sum(rewards) / 5)
    assert found == pytest.approx([0.170054, 0.170054, 0.135085, -0.237596, -0.237596], abs=SIX_DECIMALS)


@given(st.floats(-10, 10), st.integers(1, 40), st.floats(-1, 1))
def test_a_group_that_agrees_in_full_says_nothing(reward: float, size: int, moving: float) -> None:
    for name in RELATIVE:
        assert advantages(name, [reward] * size, moving) == [0.0] * size
    assert advantages("ema", [reward] * size, moving) == [reward - moving] * size
    assert advantages("none", [reward] * size, moving) == [reward] * size


@pytest.mark.parametrize(("reward", "size"), [(0.9, 8), (0.7, 12), (0.1, 3), (1e-300, 7), (1 / 3, 1)])
def test_rounding_is_not_learned_from(reward: float, size: int) -> None:
    for name in RELATIVE:
        assert advantages(name, [reward] * size) == [0.0] * size


@given(SPREAD, st.floats(0.5, 10), st.floats(-10, 10))
def test_grpo_sees_neither_shift_nor_scale(rewards: list[float], scale: float, shift: float) -> None:
    moved = [scale * reward + shift for reward in rewards]
    assert advantages("grpo", moved) == pytest.approx(advantages("grpo", rewards), rel=1e-4, abs=1e-9)


@given(SPREAD)
def test_grpo_advantages_have_unit_deviation(rewards: list[float]) -> None:
    assert np.std(advantages("grpo", rewards), ddof=1) == pytest.approx(1.0, abs=1e-4)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_leave_one_out_compares_with_the_mean_of_the_others(rewards: list[float]) -> None:
    n = len(rewards)
    others = [sum(rewards[:place] + rewards[place + 1 :]) / (n - 1) for place in range(n)]
    expected = [reward - other for reward, other in zip(rewards, others, strict=True)]
    assert advantages("leave-one-out", rewards) == pytest.approx(expected, abs=1e-12)
    centred = advantages("mean", rewards)
    assert advantages("leave-one-out", rewards) == pytest.approx([n / (n - 1) * c for c in centred], abs=1e-12)


@given(REWARDS, st.floats(-1, 1))
def test_advantages_order_a_group_as_its_rewards_do(rewards: list[float], moving: float) -> None:
    for name in get_args(Advantage):
        found = advantages(name, rewards, moving)
        assert len(found) == len(rewards)
        in_order = [advantage for _, advantage in sorted(zip(rewards, found, strict=True))]
        assert in_order == sorted(found)
        if name in RELATIVE:
            assert sum(found) == pytest.approx(0, abs=1e-6)
            assert advantages(name, rewards, moving + 1) == found


# ------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    ("advantage", "ratio", "dual", "loss", "slope"),
    [
        (1, 1.5, 3.0, -1.3, 0),
        (1, 0.5, 3.0, -0.5, -0.5),
        (-1, 0.5, 3.0, 0.8, 0),
        (-1, 1.5, 3.0, 1.5, 1.5),
        (-1, 4, 3.0, 3.0, 0),
        (-1, 4, None, 4.0, 4.0),
    ],
)
def test_the_clipped_loss_by_hand(
    advantage: float, ratio: float, dual: float | None, loss: float, slope: float
) -> None:
    found = token_loss("clip", [advantage], [ratio], BOUNDS._replace(dual=dual))
    assert float(found.loss) == pytest.approx(loss, abs=SIX_DECIMALS)
    assert float(found.slope) == pytest.approx(slope, abs=SIX_DECIMALS)
    assert float(found.weight) == pytest.approx(ratio)


def test_the_policy_gradient_by_hand() -> None:
    found = token_loss("policy-gradient", [0.5, -1.0], [0.5, 5.0], logprob=-2.0)  # the second cut off at 2
    assert found.loss.tolist() == pytest.approx([0.5, -4.0])
    assert found.slope.tolist() == pytest.approx([-0.25, 2.0])
    assert found.weight.tolist() == pytest.approx([0.5, 2.0])


def test_the_mean_is_of_rows_and_not_of_tokens() -> None:
    lengths = torch.tensor([2, 4, 6, 8])
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5]).repeat_interleave(lengths).tolist()
    loss = token_loss("clip", advantage, [1.0] * 20).loss
    assert float(loss.mean()) == pytest.approx(0.150000, abs=SIX_DECIMALS)  # pooled, as we do not
    assert float((loss * row_shares(lengths.tolist())).sum()) == pytest.approx(0, abs=SIX_DECIMALS)


def row_shares(lengths: Sequence[int]) -> Tensor:
    """What a token counts in the mean over its row, then over the rows."""
    each = torch.tensor(lengths)
    return (1 / (len(lengths) * each.double())).repeat_interleave(each)


def row_mean(name: Loss, rows: Sequence[Sequence[float]], advantage: Sequence[float]) -> float:
    """The mean over rows of on-policy tokens with these log π."""
    logprob = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    lengths = torch.tensor([len(row) for row in rows])
    of_token = torch.tensor(advantage, dtype=torch.float64).repeat_interleave(lengths)
    loss = loss_rules.load(name)(logprob, logprob, of_token, BOUNDS).loss
    return float((loss * row_shares(lengths.tolist())).sum())


def test_fine_tuning_is_the_mean_over_the_rows_that_were_kept() -> None:
    selected = [(-0.1, -0.3), (-0.2, -0.2, -0.8)]
    assert row_mean("sft", selected, [0, 0]) == pytest.approx(0.300000, abs=SIX_DECIMALS)
    rows = [(-0.1, -0.2, -0.3), (-1, -0.5), (-0.05, -0.05, -0.4, -0.5)]
    assert row_mean("sft", [rows[0], rows[2]], [0, 0]) == pytest.approx(0.225000, abs=SIX_DECIMALS)
    assert row_mean("policy-gradient", rows, [1, 0, 1]) == pytest.approx(0.150000, abs=SIX_DECIMALS)  # over all


@given(st.lists(st.tuples(st.floats(-5, 5), LOG_RATIOS.map(math.exp)), min_size=1, max_size=8))
def test_fine_tuning_asks_neither_what_was_earned_nor_how_it_was_sampled(tokens: list[tuple[float, float]]) -> None:
    advantage, ratio = zip(*tokens, strict=True)
    found = token_loss("sft", advantage, ratio, logprob=-1.25)
    assert found.loss.tolist() == [1.25] * len(tokens)
    assert found.slope.tolist() == [-1.0] * len(tokens)
    assert found.weight.tolist() == [1.0] * len(tokens)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_on_policy_the_clipped_loss_has_the_policy_gradient(advantage: list[float]) -> None:
    clip, plain = (token_loss(name, advantage, [1.0] * len(advantage)) for name in ("clip", "policy-gradient"))
    assert torch.equal(clip.slope, plain.slope) and torch.equal(clip.weight, plain.weight)


@given(st.floats(-5, 5), LOG_RATIOS.map(math.exp))
def test_the_clipped_loss_is_never_better_than_the_surrogate_but_for_the_dual_bound(a: float, ratio: float) -> None:
    single, dual = (token_loss("clip", [a], [ratio], BOUNDS._replace(dual=bound)) for bound in (None, 3.0))
    assert float(single.loss) >= -a * ratio - 1e-9
    assert float(dual.loss) <= float(single.loss)
    assert float(dual.loss) <= 3 * abs(a) + 1e-9
    assert float(dual.slope) in (0.0, float(single.slope))


@given(st.floats(-5, 5), st.floats(-30, 30).map(math.exp))
def test_the_policy_gradient_is_bounded(a: float, ratio: float) -> None:
    found = token_loss("policy-gradient", [a], [ratio])
    assert abs(float(found.slope)) <= 2 * abs(a)
    assert float(found.slope) * a <= 0  # what paid becomes likelier


@pytest.mark.parametrize("name", get_args(Loss))
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("sampled", [-1000.0, 0.0])
def test_a_token_all_but_impossible_has_a_finite_gradient(name: Loss, advantage: float, sampled: float) -> None:
    logprob = torch.tensor([-1.0 if sampled else -1000.0])
    found = loss_rules.load(name)(logprob, torch.tensor([sampled]), torch.tensor([advantage]), BOUNDS)
    assert found.loss.isfinite().all() and found.slope.isfinite().all() and found.weight.isfinite().all()


def pair(policy: Sequence[float], reference: Sequence[float], sft: float = 0.0) -> tuple[float, list[float]]:
    """The loss of one pair at β = 0.1, and its gains."""
    of_policy, of_reference = (torch.tensor([values], dtype=torch.float64) for values in (policy, reference))
    loss, gains = pair_loss(of_policy, of_reference, beta=0.1, sft_coef=sft)
    return float(loss), gains[0].tolist()


@pytest.mark.parametrize(
    ("policy", "reference", "sft", "loss", "slope"),
    [
        ((-40, -50), (-42, -48), 0.0, 0.513015, -0.040131),
        ((-42, -48), (-42, -48), 0.0, 0.693147, -0.050000),
        ((-45, -44), (-42, -48), 0.0, 1.103186, -0.066819),
        ((-120, -90), (-124, -88), 0.0, 0.437488, -0.035434),
        ((-120, -90), (-124, -88), 1 / 1024, 0.554675, -0.036411),
        ((-120, -90), (-120, -90), 1 / 1024, 0.810335, -0.050977),
    ],
)
def test_preferences_by_hand(
    policy: tuple[float, float], reference: tuple[float, float], sft: float, loss: float, slope: float
) -> None:
    found, gains = pair(policy, reference, sft)
    assert found == pytest.approx(loss, abs=SIX_DECIMALS)
    assert -gains[0] == pytest.approx(slope, abs=SIX_DECIMALS)
    assert gains[1] == pytest.approx(sft - gains[0], abs=1e-12)


LOGPROBS = st.floats(-500, 0)


@given(LOGPROBS, LOGPROBS, LOGPROBS, LOGPROBS, st.floats(0, 0.01))
def test_a_preference_pulls_its_two_apart_and_never_by_more_than_beta(
    won: float, lost: float, ref_won: float, ref_lost: float, sft: float
) -> None:
    loss, gains = pair((won, lost), (ref_won, ref_lost), sft)
    assert 0 <= gains[0] - sft <= 0.1 and gains[1] == pytest.approx(sft - gains[0], abs=1e-12)
    other, _ = pair((lost, won), (ref_lost, ref_won))
    margin = 0.1 * ((won - ref_won) - (lost - ref_lost))
    assert loss + sft * won - other == pytest.approx(-margin, abs=1e-9)  # −log σ(m) + log σ(−m) = −m


# ------------------------------------------------------------------------------------- the last token


def squared(logprob: Sequence[float], right: Sequence[bool], shares: Sequence[float]) -> tuple[float, list[float]]:
    """Σ share · (r_s − r_v)² and its slope in each log π(z), at c = −23, β_v = 0.1; read off a vocabulary of two."""
    last = LastToken(1, 0.1, -23.0)
    wanted = torch.tensor(logprob, dtype=torch.float64)
    states = torch.stack([torch.log1p(-wanted.exp()), wanted], dim=-1)  # log-probabilities, with weights of one
    head = Head(torch.eye(2, dtype=torch.float64), torch.tensor([], dtype=torch.int64))
    loss, gradient = last_token_loss(
        states, *(torch.tensor(x, dtype=torch.float64) for x in (right, shares)), head, last
    )
    return float(loss), (gradient[:, 1] / (1 - wanted.exp())).tolist()


def test_the_last_token_by_hand() -> None:
    rewards = LastToken(1, 0.1, -23.0).self_reward(torch.tensor([-13, -14.5, -22, -23.4], dtype=torch.float64))
    assert rewards.tolist() == pytest.approx([1.0, 0.85, 0.1, -0.04])
    loss, slope = squared([-13, -14.5, -22, -23.4], [True, True, False, False], [0.25] * 4)
    assert loss == pytest.approx(0.008525)
    assert [0.1 * value for value in slope] == pytest.approx([0, -0.00075, 0.0005, -0.0002], abs=1e-12)


def test_the_classes_of_the_last_token_count_alike() -> None:
    right = [True, True, True, False]
    weight = balanced(right, [0.2] * 4)
    assert weight == pytest.approx({True: 2 / 3, False: 2.0})
    loss, _ = squared([-13, -14, -15, -21], right, [weight[value] / 5 for value in right])  # a fifth row was cut off
    assert loss == pytest.approx(0.022667, abs=SIX_DECIMALS)
    assert squared([-13, -14, -15, -21], right, [0.2] * 4)[0] == pytest.approx(0.018)
    assert balanced([True, True], [1.0, 1.0]) == {True: 0.5, False: 0.0}
    assert squared([-13, -16], [True, True], [0.25] * 2)[0] == pytest.approx(0.0225)
    assert balanced([], []) == {True: 0.0, False: 0.0}


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.01, 1.0)), min_size=1, max_size=32).filter(
        lambda rows: len({right for right, _ in rows}) == 2
    )
)
def test_balanced_classes_have_half_of_all_weight_each(rows: list[tuple[bool, float]]) -> None:
    """Rows of a small group, which count more, among them."""
    right, shares = zip(*rows, strict=True)
    weight = balanced(right, shares)
    for value in (True, False):
        own = sum(share * weight[value] for share, of in zip(shares, right, strict=True) if of == value)
        assert own == pytest.approx(sum(shares) / 2)


def test_the_slope_of_the_last_token_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    head = Head(torch.eye(3, dtype=torch.float64), torch.tensor([], dtype=torch.int64))
    one = torch.ones(1, dtype=torch.float64)
    last = LastToken(2, 0.5, -3.0)
    loss, gradient = last_token_loss(logits, one, one, head, last)
    assert float(last.self_reward(logits[0, 2])) == pytest.approx(0.348707, abs=SIX_DECIMALS)
    assert float(loss) == pytest.approx(0.424182, abs=SIX_DECIMALS)
    assert gradient[0].tolist() == pytest.approx([0.455905, 0.130259, -0.586163], abs=SIX_DECIMALS)


# ------------------------------------------------------------------------------------- divergences

POLICY, REFERENCE = (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)
WEIGHTS = st.lists(st.floats(0.05, 1), min_size=4, max_size=4)


@pytest.mark.parametrize("forbidden", [0, 2])
@pytest.mark.parametrize(
    ("name", "kl", "gradient"),
    [("reverse", 0.025267, [0.098938, -0.093885, -0.005053]), ("forward", 0.025815, [0.1, -0.1, 0.0])],
)
def test_divergences_by_hand(name: Kl, kl: float, gradient: list[float], forbidden: int) -> None:
    found, slope = divergence(name, POLICY, REFERENCE, forbidden)
    assert found == pytest.approx(kl, abs=SIX_DECIMALS)
    assert slope == pytest.approx([*gradient, *[0.0] * forbidden], abs=SIX_DECIMALS)


def test_what_others_add_as_an_estimate_of_the_reverse_divergence_pulls_like_the_forward_one() -> None:
    """k3 = e^d − d − 1, d = log π_ref − log π, of a sampled token: as a loss, on average over π."""
    z = torch.tensor(POLICY, dtype=torch.float64).log().requires_grad_()
    d = torch.tensor(REFERENCE, dtype=torch.float64).log() - z.log_softmax(-1)
    k3 = d.exp() - d - 1
    assert k3.tolist() == pytest.approx([0.023144, 0.045651, 0.0], abs=SIX_DECIMALS)
    p = torch.tensor(POLICY, dtype=torch.float64)
    assert float((p @ k3).detach()) == pytest.approx(divergence("reverse", POLICY, REFERENCE)[0])
    [gradient] = torch.autograd.grad(p @ k3, z)
    assert gradient.tolist() == pytest.approx(divergence("forward", POLICY, REFERENCE)[1], abs=1e-12)


@given(WEIGHTS, WEIGHTS)
def test_a_divergence_is_positive_and_falls_against_its_gradient(one: list[float], other: list[float]) -> None:
    p, q = (np.array(x) / sum(x) for x in (one, other))
    for name in get_args(Kl):
        kl, gradient = divergence(name, p, q)
        assert kl >= -1e-12
        assert sum(gradient) == pytest.approx(0, abs=1e-12)  # a shift of all logits changes nothing
        moved = np.exp(np.log(p) - 1e-3 * np.array(gradient))
        assert divergence(name, moved / moved.sum(), q)[0] <= kl + 1e-12
        nothing, still = divergence(name, p, p)
        assert nothing == pytest.approx(0, abs=1e-12) and still == pytest.approx([0.0] * 4, abs=1e-12)
    assert divergence("reverse", p, q)[0] == pytest.approx(divergence("forward", q, p)[0], abs=1e-12)


@pytest.mark.parametrize("name", get_args(Kl))
def test_a_divergence_stays_finite_where_probabilities_vanish(name: Kl) -> None:
    """In float32, of a policy and a reference that are each sure of another token."""
    logp, logq = (torch.tensor(z).log_softmax(-1)[None] for z in ([300.0, 0.0, -300.0], [-300.0, 0.0, 300.0]))
    kl, gradient = kl_rules.load(name)(logp, logq, torch.tensor([], dtype=torch.int64), torch.ones(1), torch.zeros(1))
    assert float(kl) == pytest.approx(600)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("kl", "kl_coef"), [(0.0, 0.000904837), (0.1, 0.001491825), (1.0, 0.001648721)])
def test_the_coefficient_after_one_step(kl: float, kl_coef: float) -> None:
    assert next_kl_coef(1e-3, kl, 0.02, 1e-8) == pytest.approx(kl_coef, abs=1e-9)


# -------------------------------------------------------------------------------- the loss of a step

VOCABULARY, FORBIDDEN, COUNT = 11, [3, 7], 24
KL_COEF = 0.3


def a_step(temperature: float = 1.0) -> tuple[Tensor, Tensor, Tokens, Head]:
    """States, reference states, tokens and head, in float64; π/μ at the temperature from 0.1 to 6, with either sign
    of A at each."""
    torch.manual_seed(0)
    head = Head(torch.randn(VOCABULARY, 4, dtype=torch.float64), torch.tensor(FORBIDDEN))
    states, reference = torch.randn(2, COUNT, 4, dtype=torch.float64)
    allowed = [token for token in range(VOCABULARY) if token not in FORBIDDEN]
    ids = torch.tensor([allowed[place % len(allowed)] for place in range(COUNT)])
    logprob = torch.log_softmax(head.logits(states) / temperature, -1).gather(1, ids[:, None])[:, 0]
    ratio = torch.linspace(0.1, 6, COUNT // 2, dtype=torch.float64).repeat_interleave(2)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(COUNT // 2)
    advantage = sign * (0.1 + torch.rand(COUNT, dtype=torch.float64))
    tokens = Tokens(ids, logprob - ratio.log(), advantage, torch.rand(COUNT, dtype=torch.float64))
    return states.requires_grad_(), reference, tokens, head


def plain_loss(states: Tensor, reference: Tensor, tokens: Tokens, head: Head, rule: LossRule) -> Tensor:
    """The formulas over the tokens that can be sampled, for autograd."""
    allowed = [token for token in range(VOCABULARY) if token not in FORBIDDEN]
    z, z_ref = ((x @ head.weight.T)[:, allowed] for x in (states, reference))
    place = torch.tensor([allowed.index(token) for token in tokens.ids.tolist()])
    logprob = torch.log_softmax(z / rule.temperature, -1).gather(1, place[:, None])[:, 0]
    ratio = torch.exp(logprob - tokens.sampled_logprobs)
    a = tokens.advantages
    if rule.loss == "policy-gradient":
        loss = -a * ratio.detach().clamp(max=2) * logprob
    elif rule.loss == "sft":
        loss = -logprob
    elif rule.loss == "dpo":
        loss = -a * logprob
    else:
        bounded = ratio.clamp(1 - rule.bounds.low, 1 + rule.bounds.high)
        loss = torch.maximum(-a * ratio, -a * bounded)
        if rule.bounds.dual is not None:
            loss = torch.where((a < 0) & (loss > -rule.bounds.dual * a), -rule.bounds.dual * a, loss)
    logp, logq = z.log_softmax(-1), z_ref.log_softmax(-1)
    first, second = (logp, logq) if rule.kl == "reverse" else (logq, logp)
    return (tokens.shares * (loss + KL_COEF * (first.exp() * (first - second)).sum(-1))).sum()


@pytest.mark.parametrize("positions", [1, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("kl", get_args(Kl))
@pytest.mark.parametrize(
    ("loss", "dual"), [("policy-gradient", 3.0), ("clip", 3.0), ("clip", None), ("sft", 3.0), ("dpo", 3.0)], ids=str
)
def test_the_gradient_of_every_rule_is_autograds(
    loss: Loss, dual: float | None, kl: Kl, temperature: float, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses.POSITIONS_PER_CHUNK, "cpu", positions)
    rule = LossRule(loss, kl, Bounds(dual=dual), temperature)
    states, reference, tokens, head = a_step(temperature)
    terms = loss_terms(states, reference, tokens, KL_COEF, head, rule)
    expected = plain_loss(states, reference, tokens, head, rule)
    [gradient] = torch.autograd.grad(expected, states)
    if loss != "dpo":  # whose loss is that of its pair
        assert float(terms.loss) == pytest.approx(float(expected.detach()), abs=1e-10)
    assert (terms.gradient - gradient).abs().max() <= 1e-10


@pytest.mark.parametrize("positions", [1, 7, 100])
@pytest.mark.parametrize("sft", [0.0, 1 / 1024])
def test_the_gradient_of_preferences_is_autograds(sft: float, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values first, then the gradient of each completion's tokens with the gain that its pair gives it."""
    monkeypatch.setitem(losses.POSITIONS_PER_CHUNK, "cpu", positions)
    states, reference, tokens, head = a_step()
    lengths = [1, 5, 7, 11]  # of two pairs, the preferred completion first

    def sums(logprob: Tensor) -> Tensor:
        return torch.stack([own.sum() for own in logprob.split(lengths)]).view(2, 2)

    of_reference = sums(token_logprobs(reference, tokens.ids, head))
    _, gains = pair_loss(sums(token_logprobs(states.detach(), tokens.ids, head)), of_reference, 0.5, sft)
    of_token = gains.flatten().repeat_interleave(torch.tensor(lengths))
    ones = torch.ones(COUNT, dtype=torch.float64)
    terms = loss_terms(states, reference, Tokens(tokens.ids, ones, of_token, ones), 0.0, head, LossRule("dpo"))

    logprob = torch.log_softmax(head.logits(states), -1).gather(1, tokens.ids[:, None])[:, 0]
    of_policy = sums(logprob)
    margin = 0.5 * ((of_policy - of_reference) @ torch.tensor([1.0, -1.0], dtype=torch.float64))
    [gradient] = torch.autograd.grad((-torch.log(torch.sigmoid(margin)) - sft * of_policy[:, 0]).sum(), states)
    assert (terms.gradient - gradient).abs().max() <= 1e-10


@pytest.mark.parametrize("more", [{}, {"scale": 0.5, "cap": 2.0}], ids=["plain", "capped"])
def test_the_gradient_of_the_last_token_is_autograds(more: dict[str, float]) -> None:
    states, _, tokens, head = a_step()
    head = Head(head.weight, head.forbidden, **more)
    last, right = LastToken(5, 0.3, -2.5), (tokens.advantages > 0).double()
    loss, gradient = last_token_loss(states, right, tokens.shares, head, last)
    z = head.scale * states @ head.weight.T
    z = z if head.cap is None else head.cap * torch.tanh(z / head.cap)
    logprob = torch.log_softmax(z.index_fill(-1, head.forbidden, -torch.inf), -1)[:, 5]
    expected = (tokens.shares * (0.3 * (logprob + 2.5) - right).square()).sum()
    [wanted] = torch.autograd.grad(expected, states)
    assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert (gradient - wanted).abs().max() <= 1e-12


def test_the_temperature_is_that_of_the_token_and_not_of_the_divergence() -> None:
    states, reference, tokens, head = a_step()
    one, other = (
        loss_terms(states, reference, tokens, KL_COEF, head, LossRule(temperature=temperature))
        for temperature in (1.0, 0.7)
    )
    assert torch.equal(one.kl, other.kl)
    expected = torch.log_softmax(head.logits(states) / 0.7, -1).gather(1, tokens.ids[:, None])[:, 0]
    assert other.logprob.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize(("loss", "largest"), [("policy-gradient", 2.0), ("clip", 6.0), ("sft", 1.0), ("dpo", 1.0)])
def test_the_importance_weight_is_the_rules_own(loss: Loss, largest: float) -> None:
    states, reference, tokens, head = a_step()
    ratio = torch.linspace(0.1, 6, COUNT // 2, dtype=torch.float64).repeat_interleave(2)
    expected = torch.ones(COUNT, dtype=torch.float64) if loss in ("sft", "dpo") else ratio.clamp(max=largest)
    terms = loss_terms(states, reference, tokens, KL_COEF, head, LossRule(loss))
    assert float(terms.weight_mean) == pytest.approx(float((tokens.shares * expected).sum()))
