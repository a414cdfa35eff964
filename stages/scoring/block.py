"""The score columns of a block of whole groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import ANSWER, SCORE_COLUMNS
from stages.embedding import StepEmbedder
from stages.parameters.score import ScoreParams
from stages.rewards.cast import Cast
from stages.rewards.combination import factor, proposer_reward, weighted_sum
from stages.rewards.consensus import NO_ANSWER, Consensus, consensus
from stages.rewards.groups import Groups
from stages.rewards.rollouts import Rollouts
from stages.rewards.schedule import step_weight
from stages.rewards.selection.keep import keep
from stages.rewards.selection.top import top
from stages.rewards.step import density
from stages.scoring.cells import Cells
from stages.scoring.chosen import WITH_COLUMNS, Chosen
from stages.scoring.credit import StepCredit
from stages.scoring.parents import numbers, parents, told, verdict_passes
from stages.scoring.preferences import preferences
from stages.scoring.said import Said
from stages.scoring.steps import Steps
from stages.scoring.targets import targets


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
    trust = np.full(len(block), np.nan) if trust is None else trust

    said = Said.of(block, cells, params.max_steps)
    counts = chosen.vote(Cast(cells.cell, said.key != NO_ANSWER, said.logprob, said.weakest, trust[row]))
    elected = consensus(cells.cell, said.key, len(cells), counts)
    right, judged_by = targets(block, cells, passes, said, counts, elected, params.pool == "harmonic")
    rewarded = cells.are(*passes.rewarded)
    steps = Steps.of(block, cells, said, elected.dominant & rewarded, embedder)

    rollouts = _rollouts(block, cells, chosen, said, elected, right, steps)
    asked = _groups(block, cells, chosen, elected, rollouts, questions)
    shares = _by_index(questions.share, block, first, 0.0)
    terms = {name: cells.spread(row, term(rollouts, params)) for name, term in chosen.solver_terms.items()}
    terms |= {name: cells.spread(first, term(asked, params)) for name, term in chosen.proposer_terms.items()}
    if questions.share:
        terms["question_share"] = cells.spread(first, shares)

    t = block["group_index"].to_numpy() + start_step + 1
    weight = _step_weights(t[row], params)
    columns = {"step": pa.array(t), **_agreed(cells, said, elected, steps, asked, params)}
    columns |= {f"r_{name}": pa.array(terms[name], from_pandas=True) for name in WITH_COLUMNS}
    columns["step_weight"] = cells.column(weight, pa.float64())
    if chosen.own:  # which see all that is known so far
        frame = pa.table([*block.columns, *columns.values()], [*block.column_names, *columns]).to_pandas()
        terms |= {name: term.values(frame) for name, term in chosen.own.items()}

    of_solver = _solver_reward(chosen, {name: values[row] for name, values in terms.items()}, weight)
    judged = ~cells.are(*passes.held) | (right != NO_ANSWER)  # without a target nothing is right, and nothing wrong
    vote = elected.vote[judged_by]
    of_solver[~(rewarded & judged & _selected(chosen, of_solver, rollouts, vote))] = np.nan
    reward = cells.spread(row, of_solver)
    reward[first] = _proposer_rewards(block.take(first), chosen, terms, first, shares, asked)
    columns |= {"selected": pa.array(~np.isnan(reward)), "reward": pa.array(reward, from_pandas=True)}

    columns["self_reward"] = pa.array(trust, from_pandas=True)
    columns |= preferences(block, cells, chosen, said, vote)
    if step_credit:
        sampled = pc.fill_null(pc.list_value_length(block["token_ids"]), 0).to_numpy()
        learned = np.flatnonzero(~np.isnan(of_solver) & (sampled[row] > 0))
        completions = [said.parsed[place] for place in learned]
        columns |= step_credit.columns(block, row[learned], cells.cell[learned], of_solver[learned], completions)
    schema = pa.schema([*SCORE_COLUMNS, *chosen.columns])
    for name in schema.names:
        if name not in columns:
            columns[name] = pa.array(terms[name.removeprefix("r_")], from_pandas=True)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _rollouts(
    block: pa.Table, cells: Cells, chosen: Chosen, said: Said, elected: Consensus, right: np.ndarray, steps: Steps
) -> Rollouts:
    """What the Solver's terms see; right [R]: the keys of the targets."""
    passes = chosen.passes
    about = {term: parents(block, cells, looked_at, passes.parent) for term, looked_at in passes.about.items()}
    tags = [passes.told.get(name, ()) for name in cells.of_pass]
    return Rollouts(
        group=cells.cell,
        hit=(said.key == right) & (said.key != NO_ANSWER),
        prob=elected.prob,
        dominant=elected.dominant,
        words=np.array([completion.words for completion in said.parsed], dtype=np.int64),
        tokens=said.tokens,
        logprob=said.logprob,
        texts=said.texts,
        size=elected.size,
        dominant_size=elected.dominant_size,
        rollout=steps.rollout,
        position=steps.position,
        similarity=steps.similarity,
        key=said.key,
        right=right,
        answers=said.answers,
        verdict=numbers(said.texts, cells.are(*verdict_passes(chosen)), chosen),
        told=told(said.texts, about["reader"], [tags[cell] for cell in cells.cell])
        if "reader" in about
        else said.texts,
        parents=about,
    )


def _agreed(
    cells: Cells, said: Said, elected: Consensus, steps: Steps, asked: Groups, params: ScoreParams
) -> dict[str, pa.Array]:
    """The columns of what was said, and how far it agrees."""
    entropy = cells.spread(cells.row, elected.entropy[cells.cell])
    entropy[cells.first] = asked.entropy
    rho = density(elected.size, elected.dominant_size, 0.0 if params.no_density else params.density_exponent)
    return {
        "answer": cells.column([completion.answer for completion in said.parsed], pa.string()),
        "answer_key": cells.column(said.answers, pa.string()),
        "steps": cells.column([completion.steps for completion in said.parsed], pa.list_(pa.string())),
        "answer_prob": cells.column(elected.prob, pa.float64()),
        "entropy": pa.array(entropy, from_pandas=True),
        "dominant": cells.column(elected.dominant.tolist(), pa.bool_()),
        "density": cells.column(rho[cells.cell], pa.float64()),
        "step_similarity": cells.column(steps.lists(elected.dominant), pa.list_(pa.float64())),
    }


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


def _groups(
    block: pa.Table, cells: Cells, chosen: Chosen, elected: Consensus, rollouts: Rollouts, questions: Questions
) -> Groups:
    """What the Proposer's terms see, of the answers to its questions."""
    cell = cells.find(ANSWER)
    entropy, size, dominant = (
        np.append(values, nothing)[cell]
        for values, nothing in ((elected.entropy, np.nan), (elected.size, 0), (elected.dominant_size, 0))
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


def _step_weights(t: np.ndarray, params: ScoreParams) -> np.ndarray:
    if params.reward == "answer":
        return np.zeros(len(t))
    if params.no_warmup:
        return np.full(len(t), params.max_step_weight)
    return step_weight(t, params.total_steps, params.warmup, params.max_step_weight)
