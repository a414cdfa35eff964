"""The terms of the rewards, against worked numbers and against plain readings of their formulas."""

import math
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.errors import UsageError
from stages.parsing import answer_key, parse_completion
from stages.rewards import expression, proposer, question_share, terms, votes
from stages.rewards.combination import proposer_reward, weighted_sum
from stages.rewards.consensus import consensus
from stages.rewards.question_share import MERGED_BELOW, question_shares, sentence_bleu
from stages.rewards.rollouts import Rollouts
from stages.rewards.selection.top import top
from stages.score import ScoreParams
from tests import oracle
from tests.rollouts import agreeing, answers, questions, rollouts

DEFAULTS = ScoreParams()


def of(name: str, seen: Rollouts, constants: ScoreParams = DEFAULTS) -> np.ndarray:
    return terms.load(name)(seen, constants)


def proposed(name: str, *counts: Sequence[int], unparsed: int = 0, constants: ScoreParams = DEFAULTS) -> np.ndarray:
    """The Proposer's term for groups whose answers came up this often."""
    keys = [np.repeat(np.arange(-1, len(group)), [unparsed, *group]) for group in counts]
    group = np.repeat(np.arange(len(keys)), [len(members) for members in keys])
    agreement = consensus(group, np.concatenate(keys), len(keys))
    seen = questions(agreement.entropy, agreement.dominant_size / agreement.size, agreement.dominant_size > 0)
    return proposer.load(name)(seen, constants)


def standardised(rewards: Sequence[float] | np.ndarray) -> np.ndarray:
    """Advantages within a group, by which most worked numbers are given."""
    return (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-6)


def six(*values: float) -> object:
    return pytest.approx(values, abs=5e-7)


# ---------------------------------------------------------------------------------------------- by their names


def test_there_are_these_choices() -> None:
    assert terms.names() == [
        *("answer", "brevity", "calibration", "children", "confidence", "format"),
        *("majority", "process", "reader", "step", "verdict"),
    ]
    assert proposer.names() == ["balance", "entropy", "novelty", "tent", "valid"]
    assert votes.names() == ["count", "likelihood", "self-reward", "weakest-token"]


def test_a_new_file_is_a_new_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wordy.py").write_text("def term(rollouts, constants):\n    return rollouts.words / 10\n")
    monkeypatch.setattr(terms, "__path__", [*terms.__path__, str(tmp_path)])
    assert "wordy" in terms.names()
    assert of("wordy", rollouts(answers("ab", words=[5, 10]))) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("package", "name", "said"),
    [
        (terms, "majorty", "unknown term 'majorty'; the nearest is 'majority', of answer, brevity"),
        (proposer, "tents", "unknown proposer term 'tents'; the nearest is 'tent', of balance, entropy"),
        (votes, "../likelihood", "unknown vote '../likelihood'; the nearest is 'likelihood'"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(package: object, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        package.load(name)  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------- worked numbers


def test_self_consistency_with_a_length_penalty() -> None:
    constants = ScoreParams(length_penalty=0.1, length_limit=6)
    seen = rollouts(answers("AAABC", words=[4, 6, 9, 12, 20]))
    assert of("answer", seen, constants) == six(0.699368, 0.699368, 0.664400, 0.291718, 0.291718)
    assert proposed("entropy", [3, 1, 1]) == six(0.989738)


def test_the_bell_of_the_entropy() -> None:
    counts = [5], [4, 1], [3, 2], [2, 2, 1], [2, 1, 1, 1], [1] * 5
    assert proposed("entropy", *counts) == six(0.036658, 0.521134, 0.810340, 0.906685, 0.466563, 0.128183)


def keys(*said: tuple[str | None, int]) -> list[str | None]:
    return [answer_key(text) if text else None for text, count in said for _ in range(count)]


@pytest.mark.parametrize(
    ("said", "right", "advantages"),
    [
        ([("12", 6), ("15", 3), (None, 1)], 6, (0.774595, -1.161893)),
        ([("12", 3), ("12.0", 2), ("15", 4), (None, 1)], 5, (0.948681, -0.948681)),
        ([("7", 3), ("8", 2), (None, 5)], 3, (1.449135, -0.621058)),
        ([("0.5", 4), ("1/2", 3), ("2", 3)], 4, (1.161893, -0.774595)),
    ],
)
def test_the_majority_is_paid(said: list[tuple[str | None, int]], right: int, advantages: tuple[float, float]) -> None:
    reward = of("majority", rollouts(answers(keys(*said))))
    assert reward.tolist() == [1.0] * right + [0.0] * (10 - right)
    assert standardised(reward)[[0, -1]] == six(*advantages)


def test_the_target_need_not_be_the_majority() -> None:
    seen = rollouts(answers("AAB"), hit=[False, False, True])
    assert of("majority", seen).tolist() == [0, 0, 1]


def test_sums_of_terms() -> None:
    weights = expression.parse("0.9*majority + 0.1*format + reader", [*terms.names(), "reader"])
    right, in_form, read = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]])
    reward = weighted_sum(weights, {"reader": read, "majority": right, "format": in_form})
    assert reward == six(2.0, 1.0, 0.1, 1.0)
    assert standardised(reward) == six(1.256104, -0.032208, -1.191688, -0.032208)

    label_free = rollouts(answers(["12", "12", "12", "15", None]))
    reward = weighted_sum(
        weights,
        {
            "majority": of("majority", label_free),
            "format": np.array([1, 1, 1, 1, 0]),
            "reader": np.array([1, 0, 1, 0, 1]),
        },
    )
    assert reward == six(2.0, 1.0, 2.0, 0.1, 1.0)
    assert standardised(reward) == six(0.973479, -0.274571, 0.973479, -1.397816, -0.274571)


def test_the_weakest_step_counts() -> None:
    assert of("process", rollouts(agreeing([0.9, 0.5, 0.7]))) == six(0.75, 0.75)
    # The best two of those that agree: steps scored (.9 .8), (.7 .95 .6), (.99 .2), then others' answers.
    process = np.array([0.8, 0.6, 0.2, 0.9, 0.94, 0.8])
    seen = rollouts(answers(["12", "12", "12", "15", "15", "9"]))
    assert np.flatnonzero(top(process, seen.group, seen.dominant, 2)).tolist() == [0, 1]


def test_brevity_is_among_those_that_agree() -> None:
    assert of("brevity", rollouts(answers("AAABC"), tokens=[40, 60, 120, 50, 200])) == six(1, 0.666667, 0.333333, 0, 0)
    assert of("brevity", rollouts(answers("AA"), tokens=[50, 50])).tolist() == [1, 1]
    assert not of("brevity", rollouts(answers("AB"), tokens=[50, 80])).any()  # alone, and so not short
    assert of("brevity", rollouts(answers("AAA"), tokens=[0, 60, 30])).tolist() == [0, 0.5, 1]
    assert not of("brevity", rollouts(answers("AA"), tokens=[0, 60])).any()


def test_confidence_is_the_geometric_mean_of_the_tokens() -> None:
    seen = rollouts(answers("AAA"), tokens=[4, 0, 2], logprob=[math.log(0.9 * 0.6 * 0.8 * 0.5), np.nan, 0.0])
    assert of("confidence", seen) == six(0.681732, 0, 1)


# ------------------------------------------------------------------------------------------------------ format

GOOD = "<think>\nStep 1: The bar is 4.\n</think>\n<answer>4</answer>"


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (GOOD, 1),
        (f"\n {GOOD.upper()} \n", 1),
        ("<think>It is 4.</think><answer> four </answer>", 1),
        ("< think >It is 4.</ Think><answer>4</answer\t>", 1),
        (f"Well. {GOOD}", 0),
        (f"{GOOD} There.", 0),
        (GOOD.replace("\n<answer>", "\nso <answer>"), 0),
        (GOOD + GOOD, 0),
        (GOOD + "<answer>4</answer>", 0),
        ("<think>Step 1:</think><answer>4</answer>", 0),  # a step without text is none
        ("<think> \n</think><answer>4</answer>", 0),
        ("<think>It is 4.</think><answer> </answer>", 0),
        ("<think>It is 4.</think><answer>4", 0),
        ("It is 4.</think><answer>4</answer>", 0),
        ("<think><think>It is 4.</think></think><answer>4</answer>", 0),
        ("<think>It is 4.<answer>4</answer></think>", 0),
        ("<answer>4</answer><think>It is 4.</think>", 0),
        ("<answer>4</answer>", 0),
        ("<think>It is 4.</think>", 0),
        ("It is 4.", 0),
        ("", 0),
    ],
)
def test_the_form_that_was_asked_for(text: str, reward: int) -> None:
    assert of("format", written(text)).tolist() == [reward]


def written(*texts: str) -> Rollouts:
    """A group of rollouts of these texts, with the steps that the parser finds."""
    parsed = [parse_completion(text) for text in texts]
    members = [oracle.Rollout(completion.answer_key, 0, [np.ones(2)] * len(completion.steps)) for completion in parsed]
    return rollouts(members, texts=list(texts))


PIECES = ["<think>", "</think>", "<answer>", "</ANSWER>", "Step 1: a", "4", "\n", " ", "<answer", "</question>"]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_the_form_equals_one_pattern(text: str) -> None:
    """And whatever is in form has an answer and steps."""
    form = r"\s*<think>((?!</?think>|</?answer>).)*</think>\s*<answer>((?!</?think>|</?answer>).)*\S.*?</answer>\s*"
    inside = re.fullmatch(form, text, re.DOTALL | re.IGNORECASE)
    tags = re.findall(r"</?(?:think|answer)>", text, re.IGNORECASE)
    parsed = parse_completion(text)
    expected = bool(inside and len(tags) == 4 and parsed.steps)
    assert of("format", written(text)).tolist() == [expected]
    if expected:
        assert parsed.answer


@given(st.text("<>/ thinkaswerTHINK\n4.", max_size=60))
def test_the_form_is_total(text: str) -> None:
    assert of("format", written(f"<think>a</think><answer>{text}</answer>{text}"))[0] in (0, 1)


# -------------------------------------------------------------------------------------------------- properties


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[oracle.Rollout, int, float, str]]]:
    """Groups of rollouts, each with its tokens, its log-probability and its text."""
    vector = st.tuples(*[st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0])] * 3).map(np.array)
    rollout = st.builds(
        oracle.Rollout,
        key=st.sampled_from([None, "a", "b"]),
        words=st.integers(0, 200),
        steps=st.lists(vector.filter(np.any), max_size=3),
    )
    sampled = st.tuples(rollout, st.integers(0, 50), st.floats(-400, 0) | st.just(np.nan), st.sampled_from([GOOD, "4"]))
    return draw(st.lists(st.lists(sampled, min_size=1, max_size=6), min_size=1, max_size=4))


def sampled(*batch: list[tuple[oracle.Rollout, int, float, str]]) -> Rollouts:
    tokens, logprob, texts = ([member[part] for group in batch for member in group] for part in (1, 2, 3))
    return rollouts(*[[member[0] for member in group] for group in batch], tokens=tokens, logprob=logprob, texts=texts)


@pytest.mark.parametrize("name", terms.names())
@settings(deadline=None)
@given(batches())
def test_a_term_is_one_number_a_rollout_and_of_its_group_alone(
    name: str, batch: list[list[tuple[oracle.Rollout, int, float, str]]]
) -> None:
    """From 0 to 1; and so the order of the groups makes no difference."""
    reward = np.nan_to_num(of(name, sampled(*batch)))  # a verdict that nobody gives is none
    assert reward.dtype == np.float64 and reward.shape == (sum(map(len, batch)),)
    assert (reward >= 0).all() and (reward <= 1 + 1e-12).all()
    alone = np.concatenate([np.nan_to_num(of(name, sampled(group))) for group in batch])
    assert reward == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("name", terms.names())
def test_a_term_of_nothing_is_nothing(name: str) -> None:
    assert of(name, rollouts()).shape == of(name, rollouts([])).shape == (0,)


@settings(deadline=None)
@given(batches())
def test_terms_that_need_agreement_are_zero_without_it(
    batch: list[list[tuple[oracle.Rollout, int, float, str]]],
) -> None:
    seen = sampled(*batch)
    assert np.array_equal(of("majority", seen), seen.dominant)
    for name in ("step", "brevity", "process"):
        assert not of(name, seen)[~seen.dominant | (seen.dominant_size < 2)[seen.group]].any(), name


@settings(deadline=None)
@given(batches())
def test_process_equals_a_plain_reading_of_its_formula(
    batch: list[list[tuple[oracle.Rollout, int, float, str]]],
) -> None:
    seen = sampled(*batch)
    assume((seen.similarity != 0).all())  # else it is taken for a step without tokens
    members = [member for group in batch for member, *_ in group]
    units = [[step / np.linalg.norm(step) for step in member.steps] for member in members]
    expected = []
    for i in range(len(members)):
        agreements = []
        for j, step in enumerate(units[i] if seen.dominant[i] else []):
            others = [
                units[k][j]
                for k in range(len(members))
                if k != i and seen.dominant[k] and seen.group[k] == seen.group[i] and len(units[k]) > j
            ]
            if others:
                length = float(np.linalg.norm(np.sum(others, axis=0)))
                cosine = float(step @ np.sum(others, axis=0)) / length if length > 1e-9 else 0.0
                agreements.append((1 + cosine) / 2)
        expected.append(min(agreements, default=0.0))
    assert of("process", seen) == pytest.approx(expected, abs=1e-5)


# ------------------------------------------------------------------------------------------------- the Proposer

BARS = [f"How many bars are taller than the {colour} bar?" for colour in ("red", "blue", "green")]
SUM = "What is the sum of the two smallest values?"
YES = np.ones(4, dtype=bool)


def tents(*shares: float) -> np.ndarray:
    return proposer.load("tent")(
        questions(np.zeros(len(shares)), np.array(shares), np.ones(len(shares), bool)), DEFAULTS
    )


def test_questions_that_are_alike_share_their_reward() -> None:
    assert (sentence_bleu(BARS[0], BARS[1]), sentence_bleu(BARS[0], SUM)) == six(0.750624, 0.023980)
    shares = question_shares([*BARS, SUM], ["image"] * 4)
    assert shares.tolist() == [0.75, 0.75, 0.75, 0.25]
    reward = proposer_reward(tents(0.5, 0.7, 1.0, 0.4), shares, 1.0, YES)
    assert reward == six(0.25, 0, 0, 0.55)
    assert standardised(reward) == six(0.191272, -0.765089, -0.765089, 1.338906)
    halved = proposer_reward(tents(0.5, 0.7, 1.0, 0.4), shares, 0.5, YES)
    assert halved == six(0.625, 0.225, 0, 0.675)
    assert standardised(halved) == six(0.751667, -0.481838, -1.175685, 0.905856)


def test_a_proposal_without_a_question_earns_nothing_and_counts_among_the_proposals() -> None:
    questions = ["How many red bars are there in all?", "Who is the tallest of these people?", SUM, None]
    shares = question_shares(questions, ["image"] * 4)
    assert shares.tolist() == [0.25, 0.25, 0.25, 0.0]
    reward = proposer_reward(tents(0.5, 0.5, 0.9, 0.5), shares, 1.0, np.array([True, True, True, False]))
    assert reward == six(0.75, 0.75, 0, 0)
    assert standardised(reward) == six(0.866023, 0.866023, -0.866023, -0.866023)


def test_answers_that_cannot_be_read_do_not_make_a_question_hard() -> None:
    assert proposed("tent", [2, 1, 1, 1], unparsed=5) == six(0.4)
    assert proposed("tent", [], unparsed=5).tolist() == [0]


@given(st.lists(st.tuples(st.floats(0, 2) | st.just(np.nan), st.floats(0, 1), st.booleans()), min_size=1))
def test_the_proposers_terms_stay_in_bounds(groups: list[tuple[float, float, bool]]) -> None:
    entropy, share, answered = (np.array(part) for part in zip(*groups, strict=True))
    for name in proposer.names():
        reward = proposer.load(name)(questions(entropy, share, answered), DEFAULTS)
        assert (reward >= 0).all() and (reward <= 1).all() and not reward[~answered].any()


def test_short_questions_are_not_the_same_for_being_equal() -> None:
    assert sentence_bleu("how many", "how many") == pytest.approx(0.1**0.5)
    assert sentence_bleu("how many bars", "how many bars") == pytest.approx(0.1**0.25)
    assert question_shares(["how many"] * 2, ["a"] * 2).tolist() == [0.5, 0.5]
    assert question_shares(["how many bars"] * 2, ["a"] * 2).tolist() == [1.0, 1.0]


def test_bleu_by_hand() -> None:
    assert sentence_bleu("a b c d", "a b c d") == 1.0
    assert sentence_bleu("a b c d", "a b c d e f") == pytest.approx(math.exp(-0.5))  # two words too short
    assert sentence_bleu("a a a b", "a b c d") == pytest.approx((2 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25)
    assert sentence_bleu("a b", "c d") == sentence_bleu("", "a") == sentence_bleu("", "") == 0.0


def test_questions_are_alike_about_one_image_only() -> None:
    questions = [BARS[0], BARS[0], None, BARS[0], BARS[0]]
    assert question_shares(questions, ["a", "b", "b", None, "c"]).tolist() == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert question_shares([], []).shape == (0,)


@pytest.mark.parametrize(("bleu", "share"), [(0.5, 0.5), (0.5 + 1e-9, 1.0)])
def test_questions_merge_strictly_below_the_threshold(
    bleu: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_share, "sentence_bleu", lambda earlier, later: bleu)
    assert question_shares(["a", "b"], ["image"] * 2).tolist() == [share] * 2


def test_questions_merge_by_their_average_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of two likenesses does not make the ends alike."""
    bleu = {("a", "b"): 0.9, ("b", "c"): 0.6, ("a", "c"): 0.1}
    monkeypatch.setattr(question_share, "sentence_bleu", lambda earlier, later: bleu[earlier, later])
    assert question_shares(["a", "b", "c"], ["image"] * 3) == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_the_later_question_is_the_reference() -> None:
    words = [f"word{number}" for number in range(36)]
    short, long = " ".join(words[:20]), " ".join(words)
    assert question_shares([long, short], ["image"] * 2).tolist() == [1.0, 1.0]
    assert question_shares([short, long], ["image"] * 2).tolist() == [0.5, 0.5]  # too short for what it repeats


QUESTIONS = st.lists(st.none() | st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(" ".join), max_size=7)


@settings(deadline=None)
@given(QUESTIONS)
def test_shares_equal_merging_by_hand(questions: list[str | None]) -> None:
    asked = [place for place, question in enumerate(questions) if question is not None]
    distance = {(i, j): 1 - sentence_bleu(str(questions[i]), str(questions[j])) for i in asked for j in asked if i < j}

    def apart(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        return float(np.mean([distance[min(i, j), max(i, j)] for i in one for j in other]))

    clusters: list[tuple[int, ...]] = [(place,) for place in asked]
    while len(clusters) > 1:
        pairs = [(apart(clusters[i], clusters[j]), i, j) for i, j in combinations(range(len(clusters)), 2)]
        nearest, i, j = min(pairs)
        if sum(abs(pair[0] - nearest) < 1e-9 for pair in pairs) > 1 or abs(nearest - MERGED_BELOW) < 1e-9:
            return  # which to merge first is anybody's choice
        if nearest >= MERGED_BELOW:
            break
        clusters[i] += clusters.pop(j)
    expected = np.zeros(len(questions))
    for cluster in clusters:
        expected[list(cluster)] = len(cluster) / len(questions)
    assert question_shares(questions, ["image"] * len(questions)) == pytest.approx(expected)
