"""The score columns of a block of whole groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import ANSWER, SCORE_COLUMNS
from stages.embedding import Step, StepEmbedder
from stages.parameters.score import ScoreParams
from stages.parsing import Completion, answer_key, parse_completion
from stages.rewards.cast import Cast
from stages.rewards.combination import factor, proposer_reward, weighted_sum
from stages.rewards.consensus import NO_ANSWER, Consensus, consensus
from stages.rewards.groups import Groups
from stages.rewards.pooled import pooled
from stages.rewards.rollouts import Rollouts
from stages.rewards.schedule import step_weight
from stages.rewards.selection.keep import keep
from stages.rewards.selection.top import top
from stages.rewards.step import compared_steps, density, step_similarity
from stages.scoring.cells import Cells
from stages.scoring.chosen import Chosen
from stages.scoring.credit import StepCredit
from stages.scoring.parents import numbers, parents, told, verdict_passes
from stages.scoring.passes import KNOWN, together

STEPS_AT_ONCE = 512  # bounds the [steps, width] and [tokens, width] arrays in memory


@dataclass(frozen=True)
class Questions:
    """What is known of the questions of the whole shard by group_index, of each where something asks for it."""

    share: Mapping[int, float] = field(default_factory=dict)
    novelty: Mapping[int, float] = field(default_factory=dict)
    balance: Mapping[int, float] = field(default_factory=dict)


def score_block(
    block: pa.Table,
    chosen: Chosen,
    embedder: StepEmbedder,
    start_step: int,
    questions: Questions = Questions(),
    trust: np.ndarray | None = None,
    step_credit: StepCredit | None = None,
) -> pa.Table:
    """The score columns of a table of whole groups, row for row; `trust`, r_s of each row, NaN where there is none;
    `step_credit`, where steps have a credit.

    Rows are the block's, rollouts its solver rows (R of them), groups M. Rollouts agree within a cell, which is one
    pass of one group.
    """
    params, passes = chosen.params, chosen.passes
    cells = Cells.of(block)
    row, first = cells.row, cells.first

    texts = [text or "" for text in block["completion"].take(row).to_pylist()]
    parsed = [parse_completion(text, params.max_steps) for text in texts]
    tokens, logprob, weakest = (values[row] for values in _sampled(block))
    keys: dict[str, int] = {}
    key = _number_keys([completion.answer_key for completion in parsed], keys)
    trust = np.full(len(block), np.nan) if trust is None else trust
    counts = chosen.vote(Cast(cells.cell, key != NO_ANSWER, logprob, weakest, trust[row]))
    agreement = consensus(cells.cell, key, len(cells), counts)
    right, judged_by = _targets(block, cells, chosen, agreement, counts, key, keys)

    rewarded = cells.are(*passes.rewarded)
    step_counts, rollout, position, similarity = _steps(parsed, cells, agreement.dominant & rewarded, embedder, block)
    about = {term: parents(block, cells, looked_at, passes.parent) for term, looked_at in passes.about.items()}
    tags = [passes.told.get(name, ()) for name in cells.of_pass]
    rollouts = Rollouts(
        group=cells.cell,
        hit=(key == right) & (key != NO_ANSWER),
        prob=agreement.prob,
        dominant=agreement.dominant,
        words=np.array([completion.words for completion in parsed], dtype=np.int64),
        tokens=tokens,
        logprob=logprob,
        texts=texts,
        size=agreement.size,
        dominant_size=agreement.dominant_size,
        rollout=rollout,
        position=position,
        similarity=similarity,
        key=key,
        right=right,
        answers=[completion.answer_key for completion in parsed],
        verdict=numbers(texts, cells.are(*verdict_passes(chosen)), chosen),
        told=told(texts, about["reader"], [tags[cell] for cell in cells.cell]) if "reader" in about else texts,
        parents=about,
    )
    asked = _groups(block, cells, chosen, agreement, rollouts, questions)
    t = block["group_index"].to_numpy() + start_step + 1
    weight = _step_weights(t[row], params)
    rho = density(agreement.size, agreement.dominant_size, 0.0 if params.no_density else params.density_exponent)

    def spread(places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """[rows], NaN but at `places`."""
        spread = np.full(len(block), np.nan)
        spread[places] = values
        return spread

    place_of_row = np.full(len(block), -1)
    place_of_row[row] = np.arange(len(row))

    def solver(values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
        """A column that is null on the proposer's rows."""
        return pa.array(list(values), kind).take(pa.array(place_of_row, mask=place_of_row < 0))

    entropy = spread(row, agreement.entropy[cells.cell])
    entropy[first] = asked.entropy
    terms = {name: spread(row, term(rollouts, params)) for name, term in chosen.solver_terms.items()}
    terms |= {name: spread(first, term(asked, params)) for name, term in chosen.proposer_terms.items()}
    columns = {
        "step": pa.array(t),
        "answer": solver([completion.answer for completion in parsed], pa.string()),
        "answer_key": solver([completion.answer_key for completion in parsed], pa.string()),
        "steps": solver([completion.steps for completion in parsed], pa.list_(pa.string())),
        "answer_prob": solver(agreement.prob, pa.float64()),
        "entropy": pa.array(entropy, from_pandas=True),
        "dominant": solver(agreement.dominant.tolist(), pa.bool_()),
        "density": solver(rho[cells.cell], pa.float64()),
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
    shares = _by_index(questions.share, block, first, 0.0)
    if questions.share:
        terms["question_share"] = spread(first, shares)

    of_solver = _solver_reward(chosen, {name: values[row] for name, values in terms.items()}, weight)
    judged = ~cells.are(*passes.held) | (right != NO_ANSWER)  # without a target nothing is right, and nothing wrong
    vote = agreement.vote[judged_by]
    of_solver[~(rewarded & judged & _selected(chosen, of_solver, rollouts, vote))] = np.nan
    reward = spread(row, of_solver)
    reward[first] = _proposer_rewards(block.take(first), chosen, terms, first, shares, asked)
    columns |= {"selected": pa.array(~np.isnan(reward)), "reward": pa.array(reward, from_pandas=True)}
    columns["self_reward"] = pa.array(trust, from_pandas=True)
    columns |= _pairs(block, cells, chosen, key, tokens, vote)
    if step_credit:
        sampled = pc.fill_null(pc.list_value_length(block["token_ids"]), 0).to_numpy()
        learned = np.flatnonzero(~np.isnan(of_solver) & (sampled[row] > 0))
        said = [parsed[place] for place in learned]
        columns |= step_credit.columns(block, row[learned], cells.cell[learned], of_solver[learned], said)
    for name in chosen.columns.names:
        if name not in columns:
            columns[name] = pa.array(terms[name.removeprefix("r_")], from_pandas=True)
    schema = pa.schema([*SCORE_COLUMNS, *chosen.columns])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _proposer_rewards(
    proposals: pa.Table,
    chosen: Chosen,
    terms: Mapping[str, np.ndarray],
    first: np.ndarray,
    shares: np.ndarray,
    asked: Groups,
) -> np.ndarray:
    """The Proposer's reward of each group [M], NaN where nothing was proposed; its terms are at the rows `first`."""
    wanted = weighted_sum(chosen.proposer, {name: values[first] for name, values in terms.items()})
    reward = proposer_reward(wanted, shares, chosen.params.question_share, asked.answered)
    reward[~_proposed(proposals, asked)] = np.nan
    return reward


def _steps(
    parsed: Sequence[Completion], cells: Cells, member: np.ndarray, embedder: StepEmbedder, block: pa.Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How many steps each rollout has [R]; of each step the rollout, the position and the similarity to its prototype
    [S], NaN where it has none: only those of a `member` [R] are compared."""
    counts = np.array([len(completion.steps) for completion in parsed], dtype=np.int64)
    rollout = np.repeat(np.arange(len(parsed)), counts)
    position = np.arange(len(rollout)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = [
        Step(place, start, text)
        for place, completion in zip(cells.row, parsed, strict=True)
        for start, text in zip(completion.starts, completion.steps, strict=True)
    ]
    similarity = np.full(len(rollout), np.nan)
    compared, prototype = compared_steps(rollout, position, cells.cell, member)
    for span in _spans(cells.cell[rollout[compared]], STEPS_AT_ONCE):
        embedding = embedder.embed([found[step] for step in compared[span]], block)
        similarity[compared[span]] = step_similarity(embedding, prototype[span] - prototype[span.start])
    return counts, rollout, position, similarity


def _targets(
    block: pa.Table,
    cells: Cells,
    chosen: Chosen,
    agreement: Consensus,
    counts: np.ndarray,
    key: np.ndarray,
    keys: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """The key of each rollout's target, NO_ANSWER without one, and the cell whose vote that is, its own where it is not
    that of one   [R] both; counts [R]: what each counts in a vote."""
    best = np.full(len(cells), NO_ANSWER)
    best[cells.cell[agreement.dominant]] = key[agreement.dominant]
    right, judged_by = best[cells.cell], cells.cell.copy()
    for name, target in chosen.passes.target.items():
        own = cells.are(name)
        if target == KNOWN:
            known = block["target"].take(cells.first).to_pylist()
            right[own] = _number_keys([answer_key(text or "") or None for text in known], keys)[cells.group[own]]
            continue
        if len(several := together(target)) > 1:
            at = cells.are(*several)
            seen = np.argmax([cells.are(each)[at] for each in several], axis=0)
            harmonic = chosen.params.pool == "harmonic"
            best_together = pooled(cells.group[at], key[at], seen, len(several), cells.groups, counts[at], harmonic)
            right[own] = best_together[cells.group[own]]
            continue
        cell = cells.find(target)[cells.group[own]]
        right[own] = np.where(cell >= 0, np.append(best, NO_ANSWER)[cell], NO_ANSWER)
        judged_by[own] = np.where(cell >= 0, cell, judged_by[own])
    return right, judged_by


def _groups(
    block: pa.Table, cells: Cells, chosen: Chosen, agreement: Consensus, rollouts: Rollouts, questions: Questions
) -> Groups:
    """What the Proposer's terms see, of the answers to its questions."""
    cell = cells.find(ANSWER)
    entropy, size, dominant = (
        np.append(values, nothing)[cell]
        for values, nothing in ((agreement.entropy, np.nan), (agreement.size, 0), (agreement.dominant_size, 0))
    )
    says = np.flatnonzero(cells.are(*chosen.passes.about.get("valid", ())) & ~np.isnan(rollouts.verdict))
    count = np.bincount(cells.group[says], minlength=cells.groups)
    total = np.bincount(cells.group[says], rollouts.verdict[says], minlength=cells.groups)
    return Groups(
        entropy=entropy,
        share=dominant / np.maximum(size, 1),
        answered=dominant > 0,
        valid=np.divide(total, count, out=np.full(cells.groups, np.nan), where=count > 0),
        novelty=_by_index(questions.novelty, block, cells.first, np.nan),
        balance=_by_index(questions.balance, block, cells.first, np.nan),
    )


def _by_index(known: Mapping[int, float], block: pa.Table, first: np.ndarray, unknown: float) -> np.ndarray:
    """[M], `known` by the groups' group_index; first [M]: their first rows."""
    return np.array([known.get(index, unknown) for index in block["group_index"].take(first).to_pylist()], dtype=float)


def _pairs(
    block: pa.Table, cells: Cells, chosen: Chosen, key: np.ndarray, tokens: np.ndarray, vote: np.ndarray
) -> dict[str, pa.Array]:
    """The columns of `--pairs`, where that was asked for: pairs of rows with tokens, counted within a group; none in a
    group that `--keep` leaves out by the vote [R] of its first pass."""
    if chosen.pairs is None:
        return {}
    rule, names = chosen.pairs
    pair: list[int | None] = [None] * len(block)
    preferred: list[bool | None] = [None] * len(block)
    seed = block["seed"].take(cells.row).fill_null(0).to_numpy(zero_copy_only=False)
    share = np.zeros(len(key))
    for group in range(cells.groups):
        rows = [np.flatnonzero((cells.group == group) & cells.are(name)) for name in names]
        if chosen.keep and not keep(vote[rows[0]], *chosen.keep).all():
            continue
        votes = key[rows[0]]
        for place in np.concatenate(rows):
            share[place] = (votes == key[place]).mean() if len(votes) and key[place] != NO_ANSWER else 0.0
        sampled = [own[tokens[own] > 0] for own in rows]
        for number, (better, worse) in enumerate(rule(sampled, share, seed)):
            for place, good in ((better, True), (worse, False)):
                pair[cells.row[place]], preferred[cells.row[place]] = number, good
    return {"pair": pa.array(pair, pa.int32()), "preferred": pa.array(preferred, pa.bool_())}


def _sampled(block: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row: how many tokens were sampled, 0 where none are recorded, and the sum and the least of their
    log-probabilities, NaN where there are none."""
    stored = block["logprobs"].combine_chunks()
    tokens = pc.fill_null(pc.list_value_length(stored), 0).to_numpy(zero_copy_only=False)
    of_row = np.repeat(np.arange(len(tokens)), tokens)
    values = pc.list_flatten(stored).to_numpy(zero_copy_only=False).astype(np.float64)
    logprob, weakest = np.full((2, len(tokens)), np.nan)
    some = tokens > 0
    logprob[some] = np.bincount(of_row, values, minlength=len(tokens))[some]
    weakest[some] = np.minimum.reduceat(values, (np.cumsum(tokens) - tokens)[some])
    return tokens.astype(np.int64), logprob, weakest


def _solver_reward(chosen: Chosen, terms: Mapping[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """The Solver's reward of each rollout [R]; weight [R]: λ. Where a term says nothing, it adds nothing."""
    known = {name: np.nan_to_num(values) for name, values in terms.items()}
    if chosen.solver is not None:
        reward = weighted_sum(chosen.solver, known)
    elif chosen.params.reward == "step":
        reward = known["step"]
    else:
        reward = (1 - weight) * known["answer"] + weight * known["step"]
    return reward * factor(terms[chosen.factor[0]], *chosen.factor[1:]) if chosen.factor else reward


def _selected(chosen: Chosen, reward: np.ndarray, rollouts: Rollouts, vote: np.ndarray) -> np.ndarray:
    """Which rollouts are learned from [R] bool; vote [R]: of the dominant answer that each is held to."""
    selected = np.ones(len(reward), dtype=bool)
    if chosen.keep is not None:
        selected &= keep(vote, *chosen.keep)
    if chosen.params.top is not None:
        selected &= top(reward, rollouts.group, rollouts.hit, chosen.params.top)
    return selected


def _proposed(proposals: pa.Table, asked: Groups) -> np.ndarray:
    """Which groups have a proposal that can be rewarded [M] bool: those whose proposal has no question, and those whose
    question was answered, or could have been."""
    questions, completions = (proposals[name].to_pylist() for name in ("question", "completion"))
    unasked = [
        not question and completion is not None for question, completion in zip(questions, completions, strict=True)
    ]
    return np.array(unasked, dtype=bool) | ~np.isnan(asked.entropy)


def _number_keys(answers: Sequence[str | None], numbers: dict[str, int]) -> np.ndarray:
    """Answer keys as numbers, equal where the keys are equal, by `numbers`, which is added to; NO_ANSWER for none."""
    return np.array(
        [NO_ANSWER if key is None else numbers.setdefault(key, len(numbers)) for key in answers], dtype=np.int64
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
