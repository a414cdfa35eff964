"""The score columns of a block of whole groups."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import PROPOSER, SCORE_COLUMNS, UNREADABLE
from stages.embedding import Step, StepEmbedder
from stages.parameters.score import ScoreParams
from stages.parsing import Completion, parse_completion
from stages.rewards.combination import proposer_reward, weighted_sum
from stages.rewards.consensus import NO_ANSWER, Consensus, consensus
from stages.rewards.groups import Groups
from stages.rewards.rollouts import Rollouts
from stages.rewards.schedule import step_weight
from stages.rewards.selection.keep import keep
from stages.rewards.selection.top import top
from stages.rewards.step import compared_steps, density, step_similarity
from stages.scoring.chosen import Chosen

STEPS_AT_ONCE = 512  # bounds the [steps, width] and [tokens, width] arrays in memory


def score_block(
    block: pa.Table,
    chosen: Chosen,
    embedder: StepEmbedder,
    policy_step: int,
    question_shares: Mapping[int, float] | None = None,
) -> pa.Table:
    """The score columns of a table of whole groups, row for row; `question_shares` by group_index, where they count.

    Rows are the block's, rollouts its solver rows (R of them), groups M: a rollout's `row` and `group` index them.
    """
    params = chosen.params
    is_proposer = np.array(block["role"].to_pylist()) == PROPOSER
    row_group = np.cumsum(is_proposer) - 1
    row = np.flatnonzero(~is_proposer)
    group, groups = row_group[row], int(is_proposer.sum())

    texts = block["completion"].to_pylist()
    parsed = [parse_completion(texts[i] or "", params.max_steps) for i in row]
    tokens, logprob = (values[row] for values in _sampled(block))
    agreement = consensus(group, _number_keys(parsed), groups, chosen.vote(group, logprob))

    step_counts = np.array([len(completion.steps) for completion in parsed], dtype=np.int64)
    rollout = np.repeat(np.arange(len(parsed)), step_counts)
    position = np.arange(len(rollout)) - np.repeat(np.cumsum(step_counts) - step_counts, step_counts)
    found = [
        Step(place, start, text)
        for place, completion in zip(row, parsed, strict=True)
        for start, text in zip(completion.starts, completion.steps, strict=True)
    ]
    similarity = np.full(len(rollout), np.nan)
    compared, prototype = compared_steps(rollout, position, group, agreement.dominant)
    for span in _spans(group[rollout[compared]], STEPS_AT_ONCE):
        embedding = embedder.embed([found[step] for step in compared[span]], block)
        similarity[compared[span]] = step_similarity(embedding, prototype[span] - prototype[span.start])

    rollouts = Rollouts(
        group=group,
        hit=agreement.dominant,
        prob=agreement.prob,
        dominant=agreement.dominant,
        words=np.array([completion.words for completion in parsed], dtype=np.int64),
        tokens=tokens,
        logprob=logprob,
        texts=[texts[i] or "" for i in row],
        size=agreement.size,
        dominant_size=agreement.dominant_size,
        rollout=rollout,
        position=position,
        similarity=similarity,
    )
    first = np.flatnonzero(is_proposer)
    share = agreement.dominant_size / np.maximum(agreement.size, 1)
    asked = Groups(agreement.entropy, share, agreement.dominant_size > 0)
    t = block["group_index"].to_numpy() + policy_step + 1
    weight = _step_weights(t[row], params)
    rho = density(agreement.size, agreement.dominant_size, 0.0 if params.no_density else params.density_exponent)

    def spread(places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """[rows], NaN but at `places`."""
        spread = np.full(len(block), np.nan)
        spread[places] = values
        return spread

    def solver(values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
        """A column that is null on the proposer's rows."""
        place = pa.array(np.cumsum(~is_proposer) - 1, mask=is_proposer)
        return pa.array(list(values), kind).take(place)

    terms = {name: spread(row, term(rollouts, params)) for name, term in chosen.solver_terms.items()}
    terms |= {name: spread(first, term(asked, params)) for name, term in chosen.proposer_terms.items()}
    columns = {
        "step": pa.array(t),
        "answer": solver([completion.answer for completion in parsed], pa.string()),
        "answer_key": solver([completion.answer_key for completion in parsed], pa.string()),
        "steps": solver([completion.steps for completion in parsed], pa.list_(pa.string())),
        "answer_prob": solver(agreement.prob, pa.float64()),
        "entropy": pa.array(agreement.entropy[row_group], from_pandas=True),
        "dominant": solver(agreement.dominant.tolist(), pa.bool_()),
        "density": solver(rho[group], pa.float64()),
        "step_similarity": solver(
            _similarity_lists(similarity, step_counts, agreement.dominant), pa.list_(pa.float64())
        ),
        "r_answer": pa.array(terms["answer"], from_pandas=True),
        "r_step": pa.array(terms["step"], from_pandas=True),
        "step_weight": solver(weight, pa.float64()),
    }
    if chosen.own:
        frame = pa.table([*block.columns, *columns.values()], [*block.column_names, *columns]).to_pandas()
        terms |= {name: term.values(frame) for name, term in chosen.own.items()}
    shares = np.zeros(groups)
    if question_shares is not None:
        shares = np.array([question_shares[index] for index in block["group_index"].take(first).to_pylist()])
        terms["question_share"] = spread(first, shares)

    of_solver = _solver_reward(chosen, {name: values[row] for name, values in terms.items()}, weight)
    of_solver[~_selected(chosen, of_solver, group, agreement)] = np.nan
    wanted = weighted_sum(chosen.proposer, {name: values[first] for name, values in terms.items()})
    of_proposer = proposer_reward(wanted, shares, params.question_share, asked.answered)
    of_proposer[~_proposed(block.take(first))] = np.nan
    reward = spread(row, of_solver)
    reward[first] = of_proposer
    columns |= {"selected": pa.array(~np.isnan(reward)), "reward": pa.array(reward, from_pandas=True)}
    for name in chosen.columns.names:
        columns[name] = pa.array(terms[name.removeprefix("r_")], from_pandas=True)
    return pa.table(columns, schema=pa.schema([*SCORE_COLUMNS, *chosen.columns]))


def _sampled(block: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of every row: how many tokens were sampled, 0 where none are recorded, and the sum of their log-probabilities,
    NaN where there are none."""
    stored = block["logprobs"].combine_chunks()
    tokens = pc.fill_null(pc.list_value_length(stored), 0).to_numpy(zero_copy_only=False)
    of_row = np.repeat(np.arange(len(tokens)), tokens)
    values = pc.list_flatten(stored).to_numpy(zero_copy_only=False).astype(np.float64)
    logprob = np.bincount(of_row, values, minlength=len(tokens))
    return tokens.astype(np.int64), np.where(tokens > 0, logprob, np.nan)


def _solver_reward(chosen: Chosen, terms: Mapping[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """The Solver's reward of each rollout [R]; weight [R]: λ."""
    if chosen.solver is not None:
        return weighted_sum(chosen.solver, terms)
    if chosen.params.reward == "step":
        return terms["step"].copy()
    return (1 - weight) * terms["answer"] + weight * terms["step"]


def _selected(chosen: Chosen, reward: np.ndarray, group: np.ndarray, agreement: Consensus) -> np.ndarray:
    """Which rollouts are learned from [R] bool: reward, group [R]."""
    selected = np.ones(len(reward), dtype=bool)
    if chosen.keep is not None:
        selected &= keep(agreement.vote, *chosen.keep)[group]
    if chosen.params.top is not None:
        selected &= top(reward, group, agreement.dominant, chosen.params.top)
    return selected


def _proposed(proposals: pa.Table) -> np.ndarray:
    """Which groups have a proposal that can be rewarded [M] bool: none where there was no proposal, or no rollout
    because the image could not be read."""
    columns = (proposals[name].to_pylist() for name in ("question", "completion", "reject_reason"))
    return np.array(
        [
            bool(question or completion is not None) and not (reason or "").startswith(UNREADABLE)
            for question, completion, reason in zip(*columns, strict=True)
        ],
        dtype=bool,
    )


def _number_keys(parsed: Sequence[Completion]) -> np.ndarray:
    """Answer keys as numbers [R], equal where the keys are equal; NO_ANSWER for none."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            NO_ANSWER if completion.answer_key is None else numbers.setdefault(completion.answer_key, len(numbers))
            for completion in parsed
        ],
        dtype=np.int64,
    )


def _spans(group: np.ndarray, size: int) -> Iterator[slice]:
    """Spans of about `size` steps, none of which parts those of one group; group [K]: the group of each, ascending."""
    starts = np.flatnonzero(np.diff(group, prepend=-1, append=-1))  # the end is one more
    first = 0
    while first < len(group):
        last = int(starts[max(np.searchsorted(starts, first + size, "right") - 1, np.searchsorted(starts, first) + 1)])
        yield slice(first, last)
        first = last


def _step_weights(t: np.ndarray, params: ScoreParams) -> np.ndarray:
    if params.reward == "answer":
        return np.zeros(len(t))
    if params.no_warmup:
        return np.full(len(t), params.max_step_weight)
    return step_weight(t, params.total_steps, params.warmup, params.max_step_weight)


def _similarity_lists(
    similarity: np.ndarray, step_counts: np.ndarray, dominant: np.ndarray
) -> list[list[float | None] | None]:
    values = [None if np.isnan(value) else value for value in similarity.tolist()]
    ends = np.cumsum(step_counts).tolist()
    return [
        values[end - count : end] if inside else None
        for end, count, inside in zip(ends, step_counts.tolist(), dominant.tolist(), strict=True)
    ]
