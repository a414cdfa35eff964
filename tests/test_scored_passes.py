"""`score` of shards with several passes: whose rows are rewarded, by whose answers, and what others say of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages.parsing import answer_key
from stages.rewards import pairs
from stages.rewards.balance import balances
from stages.rewards.made import contains
from stages.rewards.novelty import novelties, rouge_l
from tests import chain


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def says(answer: object = None, **tags: object) -> str:
    """A completion with these tags and this answer."""
    content = {**tags, **({"answer": answer} if answer is not None else {})}
    return "".join(f"<{name}>{text}</{name}>" for name, text in content.items()) or "nothing"


def group(index: int, *passes: tuple[str, list[str], list[int] | None], **proposal: Any) -> list[dict[str, Any]]:
    """A group whose passes are (name, completions, parents)."""
    first, *_ = chain.group(index, "pool/0.png", [], **{"question": "How many?"})
    rows = [first | proposal]
    for name, completions, parents in passes:
        made = chain.group(index, "pool/0.png", completions)[1:]
        for place, row in enumerate(made):
            rows.append(row | {"pass": name, "parent_index": parents[place] if parents else None, "seed": place})
    return rows


def scored(*groups: list[dict[str, Any]], options: tuple[object, ...] = (), **params: Any) -> list[dict[str, Any]]:
    more: dict[str, Any] = {"params": params} if params else {}
    chain.write_shard(Path("rollouts.parquet"), list(groups), **more)
    done = call("score", "rollouts.parquet", "--force", *options)
    assert done.exit_code == 0, done.output
    return chain.rows(Path("scored.parquet"))


def of(rows: list[dict[str, Any]], name: str | None, column: str = "reward") -> list[Any]:
    return [row[column] for row in rows if row["pass"] == name]


def six(*values: float) -> Any:
    return pytest.approx(values, abs=5e-7)


# --------------------------------------------------------------------------------------- which, and by whose answers


def test_rows_of_other_passes_change_nothing_and_are_not_learned(workdir: Path) -> None:
    answers = ("answer", [says(1), says(1), says(2)], None)
    alone = scored(group(0, answers))
    both = scored(group(0, answers, ("second", [says(3)] * 4, None)))
    columns = [name for name in alone[0] if name not in ("completion",)]
    assert [[row[name] for name in columns] for row in both[:4]] == [[row[name] for name in columns] for row in alone]
    assert of(both, "second") == [None] * 4 and of(both, "second", "selected") == [False] * 4
    assert of(both, "second", "answer_prob") == [1.0] * 4 and of(both, "second", "entropy") == [0.0] * 4


def test_the_target_of_another_pass(workdir: Path) -> None:
    made = group(0, ("answer", [says(1), says(1), says(2)], None), ("teacher", [says(2), says(2), says(1)], None))
    majority = ("--solver-reward", "majority")
    assert of(scored(made, options=majority), "answer") == [1.0, 1.0, 0.0]
    rows = scored(made, options=(*majority, "--target", "teacher"))
    assert of(rows, "answer") == [0.0, 0.0, 1.0] and of(rows, "teacher") == [None] * 3
    assert of(rows, "answer", "dominant") == [True, True, False]
    crossed = (*majority, "--rewarded", "answer,teacher", "--target", "answer=teacher,teacher=answer")
    rows = scored(made, options=crossed)
    assert (of(rows, "answer"), of(rows, "teacher")) == ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    rows = scored(group(0, ("answer", [says(1)], None), ("teacher", ["nothing"], None)), options=crossed)
    assert of(rows, "answer") == [None]  # without a target nothing is right, and nothing wrong


def test_the_target_of_two_passes(workdir: Path) -> None:
    """Of 1, 2 and 3 the shares are 3/5, 2/5, 0 to the eye and 0, 1/3, 2/3 through the view."""
    seen = ("answer", [says(1)] * 3 + [says(2)] * 2, None), ("view", [says(2), says(3), says(3)], None)
    both = ("--solver-reward", "majority", "--target", "answer+view")
    assert of(scored(group(0, *seen), options=both), "answer") == [0.0, 0.0, 0.0, 1.0, 1.0]
    even = group(0, ("answer", [says(1)] * 3 + [says(2)], None), ("view", [says(1), says(2), says(2)], None))
    assert of(scored(even, options=both), "answer") == [1.0] * 3 + [0.0]  # 13/24 and 11/24
    apart = group(0, ("answer", [says(1)] * 2, None), ("view", [says(2)], None))
    assert of(scored(apart, options=(*both, "--pool", "harmonic")), "answer") == [None, None]
    alone = group(0, ("answer", [says(1)] * 2, None))
    for groups in (1, 2):  # whether others are scored with it or not
        limit = ("--limit", str(groups))
        assert of(scored(alone, group(1, *seen), options=(*both, *limit)), "answer")[:2] == [1.0, 1.0]
        harmonic = (*both, *limit, "--pool", "harmonic")
        assert of(scored(alone, group(1, *seen), options=harmonic), "answer")[:2] == [None, None]


@pytest.mark.parametrize(
    ("target", "elects"),
    [(None, ["answer"]), ("view", ["view"]), ("answer+view", ["answer", "view"]), ("known", [])],
)
def test_votes_by_probability_need_those_of_the_passes_that_elect(
    workdir: Path, target: str | None, elects: list[str]
) -> None:
    made = group(0, ("answer", [says(1)], None), ("view", [says(1)], None), target="1")
    options = ("--solver-reward", "majority", "--vote", "likelihood", *(("--target", target) if target else ()))
    plain, other = {"temperature": 1.0, "top_p": 1.0}, {"temperature": 0.5, "top_p": 1.0}
    for sharp in ("answer", "view"):
        passes = {
            name: {**(other if name == sharp else plain), "prompt": "", "of": None} for name in ("answer", "view")
        }
        chain.write_shard(Path("rollouts.parquet"), [made], params={**passes["view"], "pass": "view", "passes": passes})
        done = call("score", "rollouts.parquet", "--force", *options)
        assert done.exit_code == (2 if sharp in elects else 0), done.output
        assert sharp not in elects or f"of pass {sharp} were sampled at temperature 0.5" in " ".join(
            done.stderr.split()
        )


def test_the_target_that_is_known(workdir: Path) -> None:
    known = ("--solver-reward", "majority", "--target", "known")
    answers = ("answer", [says("12.0"), says(13), says(13)], None)
    assert of(scored(group(0, answers, target="12"), options=known), "answer") == [1.0, 0.0, 0.0]
    rows = scored(group(0, answers), group(1, answers, target="13"), options=known)
    assert of(rows, "answer") == [None] * 3 + [0.0, 1.0, 1.0]  # what is not known says nothing of right and wrong
    assert of(rows, "answer", "selected") == [False] * 3 + [True] * 3
    chain.write_shard(Path("rollouts.parquet"), [group(0, answers)])
    done = call("score", "rollouts.parquet", "--force", *known)
    assert done.exit_code == 2 and "no question here has a known answer" in " ".join(done.stderr.split())


def test_the_band_is_that_of_the_vote_that_a_row_is_held_to(workdir: Path) -> None:
    made = group(0, ("answer", [says(1)] * 4, None), ("label", [says(1), says(1), says(2), says(3)], None))
    keep = ("--solver-reward", "majority", "--keep", "0.3:0.8")
    assert of(scored(made, options=keep), "answer", "selected") == [False] * 4
    assert of(scored(made, options=(*keep, "--target", "label")), "answer", "selected") == [True] * 4


def test_the_proposer_is_not_blamed_for_what_could_not_be_asked(workdir: Path) -> None:
    asked = group(0, ("answer", [says(1), says(2)], None))
    refused = group(1, reject_reason="too long: prompt and picture take 9 tokens, and the context has 8")
    silent = group(2, question=None, reject_reason="the proposal has no question", completion="I see.")
    unseen = group(3, reject_reason="unreadable image: gone")
    unread = group(4, question=None, completion=None, token_ids=None, reject_reason="unreadable image: gone")
    rows = scored(asked, refused, silent, unseen, unread)
    rewards = of(rows, None)
    assert rewards[0] > 0 and rewards[1:] == [None, 0.0, None, None]


# -------------------------------------------------------------------------------------------- what others say of a row


def test_a_blind_readers_answer(workdir: Path) -> None:
    """r = 0.9·1[key = â] + 0.1·format + 1[reader = â]."""
    described = [says(key, description="bars", think="Step 1: a") for key in (12, 12, 12, 15)]
    described.append(says(None, description="bars"))
    readers = ("reader", [says(key) for key in (12, 9, 12, 15, 12)], [0, 1, 2, 3, 4])
    expression = ("--solver-reward", "0.9*majority + 0.1*format + reader", "--form", "description,think,answer")
    rows = scored(group(0, ("answer", described, None), readers), options=expression)
    assert tuple(of(rows, "answer")) == six(2.0, 1.0, 2.0, 0.1, 1.0)
    assert of(rows, "answer", "r_reader") == [1.0, 0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("description", "paid"),
    [("four bars", 1.0), ("the sum is 12.", 0.0), ("of 12.0 in all", 0.0), ("12.5 and 112", 1.0), (None, 0.0)],
)
def test_a_description_that_is_missing_or_gives_the_answer_away_earns_nothing(
    workdir: Path, description: str | None, paid: float
) -> None:
    told = {"description": description} if description else {}
    rows = scored(
        group(0, ("answer", [says(12, **told)] * 2, None), ("reader", [says(12)] * 2, [0, 1])),
        options=("--solver-reward", "reader"),
    )
    assert of(rows, "answer") == [paid, paid]


def test_what_is_contained() -> None:
    assert contains("a Red  bar", "red bar") and contains("it is 1,200", "1200") and contains("so 12.", "12")
    assert not contains("reddish", "red") and not contains("", "1") and not contains("1", None)
    for text, answer in (
        ("The bar is 3 cm tall.", "3 cm"), ("There are 12 apples", "12 apples"), ("It shows 50 % of", "50%"),
        ("price is $ 5", "$5"), ("at (3, 4) on", "(3,4)"), ("on May 5, 2020", "May 5, 2020"), ("x = 5", "x=5"),
        ("at 12:30 pm", "12:30pm"), ("it is option A", "A"), ("it is (a) there", "A"), ("So: A.", "A"),
    ):  # fmt: skip
        assert contains(text, answer_key(answer)), text
    for text, answer in (
        ("A red bar and a blue one", "A"), ("I see it, I'm sure", "I"), ("The bar is 3 m tall.", "3 cm"),
        ("13 cm", "3 cm"), ("There are 112 apples", "12 apples"),
    ):  # fmt: skip
        assert not contains(text, answer_key(answer)), text


def test_the_children_of_an_analysis(workdir: Path) -> None:
    """0.9·share of the children in the majority + 0.1·format; the vote is over all answers of the group, a tie goes to
    the one sampled first."""
    analyses = ("think", [says(analysis="a"), says(analysis="b"), says(analysis="c") + " and more"], None)
    keys = [7, 7, 7, 8, 7, 7, 9, 9, 8, 8, 8, 8]
    answers = ("answer", [says(key) for key in keys], [place // 4 for place in range(12)])
    options = ("--solver-reward", "0.9*children + 0.1*format", "--form", "analysis")
    rows = scored(group(0, analyses, answers), options=(*options, "--rewarded", "think", "--target", "answer"))
    assert tuple(of(rows, "think")) == six(0.775, 0.55, 0.0)
    assert of(rows, "answer") == [None] * 12
    assert of(rows, None)[0] > 0  # the Proposer's is by the answers


def test_verdicts_are_averaged_and_bounded(workdir: Path) -> None:
    answers = ("answer", [says(1), says(1), says(2), says(1)], None)
    verdicts = [says(score=8), says(score=4), says(score=10), says(score=11), says(score="good"), "none", says(score=0)]
    judges = ("judge", verdicts, [0, 0, 1, 1, 2, 2, 3])
    made = group(0, answers, judges)
    options = ("--verdict", "score:0:10", "--solver-reward", "majority + 0.5*verdict")
    rows = scored(made, options=options)
    assert tuple(of(rows, "answer")) == six(1.3, 1.5, 0.0, 1.0)
    assert of(rows, "answer", "r_verdict") == [pytest.approx(0.6), 1.0, None, 0.0]
    told = json.loads(call("score", "rollouts.parquet", "--force", "--json", *options).stdout)
    assert told["verdicts_dropped"] == 2 and told["rollouts"] == 4
    factor = ("--verdict", "score:0:10", "--solver-reward", "majority", "--factor", "verdict:0.8:1.2")
    assert tuple(of(scored(made, options=factor), "answer")) == six(1.04, 1.2, 0.0, 0.8)


def test_a_row_knows_how_sure_it_can_be(workdir: Path) -> None:
    sure = [says(1, confidence=0.9), says(1, confidence=0.5), says(2, confidence=0.8), says(1), says(1, confidence=2)]
    options = ("--solver-reward", "calibration", "--verdict", "confidence:0:1")
    rows = scored(group(0, ("answer", sure, None)), options=options)
    assert tuple(of(rows, "answer")) == six(0.99, 0.75, 0.36, 0.0, 0.0)


def test_the_recorded_pass_says_who_was_made_of_whom(workdir: Path) -> None:
    """Of several passes made of the answers the one named as the term is looked at."""
    answers = ("answer", [says(1, description="x"), says(1, description="y")], None)
    others = [("reader", [says(1), says(2)], [0, 1]), ("judge", [says(score=1), says(score=0)], [0, 1])]
    passes = {name: {"of": "answer", "prompt": "{description}{question}"} for name in ("reader", "judge")}
    params = {"pass": "last", "passes": {"answer": {"of": None, "prompt": "{question}"}, **passes}}
    made = group(0, answers, *others)
    rows = scored(made, options=("--solver-reward", "reader"), **params)
    assert of(rows, "answer") == [1.0, 0.0]
    message = call("score", "rollouts.parquet", "--force", "--solver-reward", "verdict")
    assert message.exit_code == 2
    assert "looks at one pass made of answer, and there are reader, judge; call it verdict" in message.stderr


# -------------------------------------------------------------------------------------------------------- the Proposer


def test_questions_that_are_valid_new_and_of_a_rare_kind(workdir: Path) -> None:
    def asked(index: int, kind: str, question: str, *scores: object) -> list[dict[str, Any]]:
        answers = ("answer", [says(1), says(2)], None)
        proposal = {"question": question, "completion": f"<kind>{kind}</kind><question>{question}</question>"}
        return group(index, answers, ("valid", [says(score=value) for value in scores], None), **proposal)

    groups = [
        asked(0, "counting", "how many red chairs are there", 1, 0),
        asked(1, "Counting", "how many blue chairs are there", 1, 1),
        asked(2, "logic", "what is the total", 2),
    ]
    options = ("--proposer-reward", "0.5*tent + 0.1*valid + 0.2*balance + novelty", "--kinds", "counting,logic,space")
    params = {"pass": "valid", "passes": {"answer": {"of": None}}, "of": None}
    rows = scored(*groups, options=options, **params)
    assert of(rows, None, "r_valid") == [0.5, 1.0, 0.0]
    assert tuple(of(rows, None, "r_novelty")) == six(1.0, 1 - 0.833333, 1.0)
    assert of(rows, None, "r_balance") == [0.0, 0.0, 0.0]  # an even share is 1, and nothing is below it
    assert tuple(of(rows, None)) == six(1.55, 0.766667, 1.5)


def likeness(one: str, other: str) -> float:
    return rouge_l(one.split(), other.split())


def test_rouge_by_hand() -> None:
    assert likeness("how many red chairs are there", "how many blue chairs are there") == 10 / 12
    assert likeness("what is the total", "what is the total of column b") == pytest.approx(8 / 11)
    assert likeness("which bar is tallest", "how old is he") == 0.25
    assert novelties(["a b", None, "a b"]).tolist() == [1.0, 0.0, 0.0]


def test_rare_kinds_by_hand() -> None:
    kinds = ["a"] * 6 + ["b"] * 2 + ["odd", None]
    assert balances(kinds, ["a", "b"]).tolist() == [0.0] * 6 + [0.5] * 2 + [0.0, 0.0]
    assert balances([None], ["a"]).tolist() == [0.0]


# --------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    ("own", "earlier", "expected"),
    [
        ([3, 5, 4], [1, 2, 2], [(1, 3)]),
        ([3, 5, 4], [4, 3, 5], [(1, 0)]),
        ([2, 2], [2, 2], []),
        ([2, 3], [], [(1, 0)]),
        ([], [1], []),
    ],
)
def test_anchored_rejection(own: list[int], earlier: list[int], expected: list[tuple[int, int]]) -> None:
    places = np.arange(len(own)), np.arange(len(own), len(own) + len(earlier))
    found = pairs.load("anchored")(places, np.array([*own, *earlier]), np.zeros(9, int))
    assert list(found) == expected


def test_anchored_by_the_vote(workdir: Path) -> None:
    own, base = ([says(key) for key in keys] for keys in ("AABACAB", "DABCDDA"))
    made = group(0, ("answer", own, None), ("base", base, None))
    rows = scored(
        made,
        made[:1] and group(1, ("answer", own[:1], None), ("base", own[:1], None)),
        options=("--pairs", "anchored:answer:base"),
    )
    named = [
        (row["pass"], row["sample_index"], row["pair"], row["preferred"]) for row in rows if row["pair"] is not None
    ]
    assert named == [("answer", 0, 0, True), ("base", 0, 0, False)]


def test_no_pair_is_made_of_a_group_outside_the_band(workdir: Path) -> None:
    """By the vote of the policy's own pass, whatever that of the base says."""
    groups = [
        group(index, ("answer", [says(key) for key in own], None), ("base", [says(key) for key in base], None))
        for index, (own, base) in enumerate((("ABCDA", "DDEEE"), ("AAAAB", "DEFGH")))
    ]
    rows = scored(*groups, options=("--pairs", "anchored:answer:base", "--keep", "0.8:1"))
    assert {row["group_index"] for row in rows if row["pair"] is not None} == {1}


def test_better_by_how_it_came_about(workdir: Path) -> None:
    good, bad, spoilt = ([says(f"{kind}{place}") for place in range(4)] for kind in ("good", "bad", "spoilt"))
    made = group(0, ("good", good, None), ("bad", bad, None), ("spoilt", spoilt[:3], None))
    rows = scored(made, options=("--pairs", "better:good:bad:spoilt"))
    found: dict[int, list[tuple[bool, str, int]]] = {}
    for row in rows:
        if row["pair"] is not None:
            found.setdefault(row["pair"], []).append((row["preferred"], row["pass"], row["sample_index"]))
    assert found == {  # by the seeds of the good ones, which here are their places; the third has no fourth
        0: [(True, "good", 0), (False, "bad", 0)],
        1: [(True, "good", 1), (False, "spoilt", 1)],
        2: [(True, "good", 2), (False, "bad", 2)],
    }
    assert chain.metadata(Path("scored.parquet"))["params"]["pairs"] == "better:good:bad:spoilt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rewarded", "think"), "no rows of pass think; there are answer"),
        (("--target", "teacher"), "no rows of pass teacher; there are answer"),
        (("--target", "a=b"), "--target a=b: not PASS, known, or PASS=TARGET"),
        (("--target", "known"), "--target known: nothing of this reward looks at it; add --solver-reward majority"),
        (("--target", "known", "--pool", "harmonic", "--top", "1"), "--pool harmonic: it is of the votes of several"),
        (("--target", "answer+answer", "--top", "1"), "--target answer+answer: names a pass more than once"),
        (("--solver-reward", "reader"), "the term reader looks at rows made of answer (rollout --of), and has none"),
        (("--proposer-reward", "valid"), "the term valid looks at one pass about the question; call it valid"),
        (("--proposer-reward", "balance"), "the term balance needs --kinds"),
        (("--proposer-reward", "balance", "--kinds", "a, A,"), "two kinds of question"),
        (("--factor", "majority:1:0"), "--factor majority:1:0: not NAME:LO:HI with LO < HI"),
        (("--factor", "majorty:0:1"), "unknown term 'majorty'; the nearest is 'majority'"),
        (("--verdict", "score"), "--verdict score: not NAME:LO:HI"),
        (("--pairs", "anchord:a:b"), "unknown rule of --pairs 'anchord'; the nearest is 'anchored'"),
        (("--pairs", "anchored:answer"), "--pairs anchored:answer: not RULE:PASS:PASS"),
        (("--pairs", "anchored:answer:base"), "no rows of pass base; there are answer"),
        (("--pairs", "anchored:answer:base", "--top", "2"), "--pairs say which rows are learned from"),
    ],
)
def test_mistakes(workdir: Path, options: tuple[str, ...], message: str) -> None:
    chain.write_shard(Path("rollouts.parquet"), [group(0, ("answer", [says(1)], None))])
    done = call("score", "rollouts.parquet", *options)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.stderr


def test_what_inspect_says_of_passes(workdir: Path) -> None:
    """The answers are those of their pass, and a factored reward is what its terms make."""
    judges = ("judge", [says(score=1), says(score=0)], [0, 1])
    options = ("--solver-reward", "majority + 0.5*verdict", "--factor", "verdict:0.8:1.2")
    scored(group(0, ("answer", [says(1), says(2)], None), judges), options=options)
    [found] = json.loads(call("inspect", "scored.parquet", "--best", "--json").stdout)
    assert [answer["text"] for answer in found["answers"]] == ["1", "2"]
    rewards = [row["reward"] for row in found["rollouts"]]
    assert rewards[:2] == [pytest.approx(1.8), 0.0] and rewards[2:] == [None, None]
    assert not any(row["reward_changed"] for row in found["rollouts"])
    text = call("inspect", "scored.parquet", "--best").output
    assert "judge #0" in text


# ------------------------------------------------------------------------------------------------ what score looks at


def test_score_counts_an_answer_by_its_weakest_token(workdir: Path) -> None:
    made = group(0, ("answer", [says(1), says(1), says(2)], None))
    for row, first, rest in zip(made[1:], (-3.0, -3.0, -0.5), (-0.01, -0.01, -0.5), strict=True):
        row["logprobs"] = [rest] * (len(row["token_ids"]) - 1) + [first]
    own = {"temperature": 1.0, "top_p": 1.0, "prompt": "", "of": None}
    rows = scored(made, options=("--vote", "weakest-token"), **{**own, "pass": "answer", "passes": {"answer": own}})
    assert of(rows, "answer", "dominant") == [False, False, True]


def test_the_best_are_among_what_is_right(workdir: Path) -> None:
    made = group(0, ("answer", [says(1), says(1), says(2)], None), ("teacher", [says(2), says(2), says(1)], None))
    rows = scored(made, options=("--target", "teacher", "--top", "1"))
    assert of(rows, "answer", "selected") == [False, False, True]


def test_no_answer_is_never_the_better(workdir: Path) -> None:
    made = group(0, ("answer", [says(), says(), says(1)], None), ("base", [says(2)], None))
    rows = scored(made, options=("--pairs", "anchored:answer:base"))
    assert [(row["pass"], row["sample_index"]) for row in rows if row["preferred"]] == [("answer", 2)]


def test_steps_of_rows_that_are_not_rewarded_are_not_compared(workdir: Path) -> None:
    two = [chain.solution(1, "a", "b")] * 2
    rows = scored(group(0, ("answer", two, None), ("second", two, None)))
    assert of(rows, "second", "step_similarity") == [[None, None]] * 2
    assert None not in of(rows, "answer", "step_similarity")[0]


def test_silence_is_no_agreement(workdir: Path) -> None:
    """Two of five are not all, though the others say nothing."""
    silent = group(0, ("answer", [says(1), says(1), says(), says(), says()], None))
    assert of(scored(silent, options=("--proposer-reward", "tent")), None, "r_tent") == [pytest.approx(0.8)]


def test_novelty_goes_by_group_index_whatever_the_order_of_the_rows(workdir: Path) -> None:
    assert novelties(["a b", "c d", "a b"]).tolist() == [1.0, 1.0, 0.0]  # against all before, not the last
    asked = ("How many red bars?", "How many red bars are there?")
    one, two = (group(index, ("answer", [says(1), says(2)], None), question=text) for index, text in enumerate(asked))

    def novelty(*groups: list[dict[str, Any]]) -> dict[int, float]:
        rows = scored(*groups, options=("--proposer-reward", "novelty"))
        return {row["group_index"]: row["r_novelty"] for row in rows if row["role"] == "proposer"}

    assert novelty(one, two) == novelty(two, one)


def test_shares_are_among_questions_about_the_same_pictures_all_of_them(workdir: Path) -> None:
    asked = ("How many red bars?", "How many red bars?", "What colour is the sky over there?")
    groups = [group(index, ("answer", [says(1), says(2)], None), question=text) for index, text in enumerate(asked)]
    for index, rows in enumerate(groups):
        for row in rows:
            row["images"] = row["images"] * 2
            row["images_sha256"] = [row["images_sha256"][0], "a" if index < 2 else "b"]
    got = scored(*groups, options=("--question-share", "1"))
    assert [row["r_question_share"] for row in got if row["role"] == "proposer"] == [1.0, 1.0, 1.0]


def test_pictures_that_are_not_known_are_not_taken_for_one(workdir: Path) -> None:
    asked = ("How many?", "How many?", "Which colour?", "How many?")
    groups = [group(index, ("answer", [says(1), says(2)], None), question=text) for index, text in enumerate(asked)]
    for row in (*groups[0], *groups[1]):
        row["images_sha256"] = None
    got = scored(*groups, options=("--question-share", "1"))
    assert [row["r_question_share"] for row in got if row["role"] == "proposer"] == [0.0, 0.0, 0.5, 0.5]
    chain.write_shard(Path("rollouts.parquet"), groups[:3])
    refused = call("score", "rollouts.parquet", "--question-share", "1", "--force")
    assert refused.exit_code == 2 and "no image has two" in refused.stderr


def test_confidence_needs_the_distribution_of_what_is_rewarded(workdir: Path) -> None:
    made = group(0, ("answer", [says(1)], None), ("view", [says(1)], None))
    asked = ("score", "rollouts.parquet", "--force", "--solver-reward", "confidence + majority", "--target", "view")
    for sharp, code in (("answer", 2), ("view", 0)):
        passes = {
            name: {"temperature": 0.5 if name == sharp else 1.0, "top_p": 1.0, "prompt": "", "of": None}
            for name in ("answer", "view")
        }
        params = {**passes["view"], "pass": "view", "passes": passes}
        chain.write_shard(Path("rollouts.parquet"), [made], params=params)
        assert call(*asked).exit_code == code
