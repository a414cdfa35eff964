"""One step off: rows of the policy before, what they weigh, and a run that samples while it learns."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ireasoner_cli.demo import world as charts
from ireasoner_cli.demo.layout import MODEL
from ireasoner_cli.workers.answer import Answer
from ireasoner_cli.workers.crew import Crew
from ireasoner_cli.workers.share import Share
from stages import rollout, shards, update
from stages.contract import Metadata, ModelRef, PolicyRef, group_id
from stages.learning.drift import LEAST_ESS, effective_sample_size, too_far
from stages.learning.losses import Loss, load
from stages.learning.losses.bounds import Bounds
from stages.parameters.update import UpdateParams
from stages.updating import remarks
from tests import chain, test_run, test_workers
from tests.test_run import call, interrupted_at, run
from tests.test_workers import Script

world = test_run.world
LAG = ("--lag", 1)


def told(path: Path) -> tuple[int, int]:
    """The step of the policy that a shard was made with, and that which its groups are counted from."""
    metadata = chain.metadata(path)
    return metadata["policy"]["step"], metadata["params"]["rollout"]["propose"]["step"]


# ------------------------------------------------------------------------------------------------ propose --step


def test_two_iterations_from_one_policy_ask_different_questions(world: Path) -> None:
    for out, step in (("first", ()), ("same", ("--step", 0)), ("second", ("--step", 4))):
        made = call("propose", "--images", "pool", "--out", f"{out}.parquet", *step)
        assert made.exit_code == 0, made.output
    assert Path("same.parquet").read_bytes() == Path("first.parquet").read_bytes()
    first, second = (chain.rows(Path(f"{name}.parquet")) for name in ("first", "second"))
    for column in ("group_id", "seed", "images_sha256"):
        assert not {str(row[column]) for row in first} & {str(row[column]) for row in second}, column
    assert [row["group_id"] for row in second] == [
        group_id(3, 4 + place + 1, row["images_sha256"]) for place, row in enumerate(second)
    ]
    assert call("rollout", "second.parquet", "--out", "rollouts.parquet").exit_code == 0
    assert call("score", "rollouts.parquet", "--out", "scored.parquet").exit_code == 0
    assert told(Path("scored.parquet")) == (0, 4)
    assert {row["step"] for row in chain.rows(Path("scored.parquet"))} == {5, 6, 7, 8}
    learned = call("update", "scored.parquet", "--json")
    assert json.loads(learned.stdout)["step"] == 8
    assert call("verify", "policy", "--replay").exit_code == 0


# ------------------------------------------------------------------------------------------------ update --lag


def test_rows_of_the_policy_before_are_learned_from_and_of_no_other(world: Path) -> None:
    assert run(*LAG, iterations=3).exit_code == 0
    assert [told(Path(f"run/it000{number}/scored.parquet")) for number in (1, 2, 3)] == [(0, 0), (0, 4), (4, 8)]
    state = json.loads(Path("run/it0003/policy/state.json").read_text())
    before = json.loads(Path("run/it0002/policy/state.json").read_text())["lineage"]["policy"]
    assert state["step"] == 12 and state["lineage"]["params"]["sampled_from"] == before
    asked = ("update", "run/it0003/scored.parquet", "--policy")
    for policy, lag, wrong in (
        ("run/it0002/policy", 0, "at step 8, not the policy that run/it0003/scored.parquet was made with"),
        ("run/it0003/policy", 1, "nor made from that by one update"),  # that is two behind
        ("run/it0001/policy", 1, None),
        ("run/it0002/policy", 1, None),
    ):
        made = call(*asked, policy, "--lag", lag, "--out", f"policy-{wrong is None}-{policy[9]}")
        assert made.exit_code == (3 if wrong else 0), made.output
        assert wrong is None or (wrong in made.stderr and made.stderr.count("\n") == 1)
    assert chain.file_bytes(Path("policy-True-2")) == chain.file_bytes(Path("run/it0003/policy"))
    assert call("verify", "run/it0003/policy", "--replay").exit_code == 0
    twice = call("update", "run/it0002/scored.parquet", "--policy", "run/it0002/policy", *LAG, "--out", "twice")
    assert twice.exit_code == 3
    again = call("update", "run/it0001/scored.parquet", "--policy", "run/it0001/policy", *LAG, "--out", "twice")
    assert again.exit_code == 3 and "propose --step 4" in again.stderr and not Path("twice").exists()


# ------------------------------------------------------------------------------------------------ what rows weigh


@given(st.lists(st.floats(0.0, 3.0, width=32), min_size=1, max_size=20))
def test_the_effective_sample_size(weights: list[float]) -> None:
    w = np.array(weights)
    expected = w.sum() ** 2 / (len(w) * (w**2).sum()) if w.any() else 0.0
    found = effective_sample_size(len(w), (w - 1).sum(), ((w - 1) ** 2).sum())
    assert 0 <= found <= 1
    if (w**2).sum() > 1e-6:
        assert found == pytest.approx(expected, rel=1e-6)


def test_it_keeps_the_digits_of_weights_near_one() -> None:
    assert effective_sample_size(10**6, 0.0, 1e-3) == pytest.approx(1 - 1e-9, abs=1e-13)
    assert effective_sample_size(10, -10.0, 10.0) == 0.0
    assert effective_sample_size(10, math.inf, math.inf) == effective_sample_size(10, math.nan, math.nan) == 0.0


def test_a_step_off_is_harmless_within_what_was_measured() -> None:
    def steps(weight: float, ess: float) -> list[dict[str, float]]:
        return [{"importance_weight": weight, "effective_sample_size": ess, "clipped": 0.0, "tokens": 9}]

    assert too_far([]) is None and too_far(steps(1.04, 0.99)) is None and too_far(steps(0.96, 1.0)) is None
    assert "1.060" in (too_far(steps(1.06, 1.0)) or "") and "98.9%" in (too_far(steps(1.0, 0.989)) or "")
    long = [{**steps(1.0, 1.0)[0], "tokens": 991}, steps(1.0, 0.0)[0]]
    assert too_far(long) is None  # by tokens: 9 of 1000


def test_update_says_who_has_drifted_and_what_helps() -> None:
    """Nothing of rows whose μ is of another distribution anyway."""

    def said(lag: int, **sampled: object) -> list[str]:
        own = {"temperature": 1.0, "top_p": 1.0, "sampler": "vllm", **sampled}
        params = {"rollout": own | {"pass": "answer", "propose": own}}
        learner: Any = SimpleNamespace(params=UpdateParams(lag=lag), temperature=lambda role: 1.0)
        row = {"role": "solver", "importance_weight": 1.1, "effective_sample_size": 0.9, "clipped": 0.0, "tokens": 9}
        scored = Metadata("score", params, 0, (), ModelRef("model"), PolicyRef())
        return list(remarks.drifted([row], learner, scored))

    (alone,), (behind,) = said(0), said(1)
    assert "the solver has moved far" in alone and "--lr" in alone and "--lag 0" not in alone
    assert behind == f"{alone}, or --lag 0"
    assert not said(1, sampler="fake") and not said(1, temperature=0.7)


@pytest.mark.parametrize(
    ("loss", "clipped"),
    [("policy-gradient", [False, False, True]), ("clip", [False, False, True]), ("sft", [False] * 3)],
)
def test_what_a_rule_cuts_off(loss: Loss, clipped: list[bool]) -> None:
    ratios = torch.tensor([1.0, 1.2, 2.5])
    found = load(loss)(ratios.log(), torch.zeros(3), torch.ones(3), Bounds(0.2, 0.3, None))
    assert found.clipped.tolist() == clipped


def test_six_iterations_one_step_off_weigh_almost_alike(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the demonstration's model, at the learning rate of the demonstration."""
    rows = [{"image": {"bytes": row["image"]}, "question": row["question"]} for row in charts.benchmark(12)]
    shards.write_table(Path("charts.parquet"), pa.Table.from_pylist(rows))
    Path("ireasoner.toml").write_text(
        f"model = {str(MODEL)!r}\nsampler = 'transformers'\n"
        "[propose]\ngroups = 2\nquestions = 'question'\n[rollout]\nsamples = 2\nmax-tokens = 64\n"
        "[update]\nlr = 5e-4\nkl-start = 0.05\nkl-min = 0.05\ngroups-per-step = 2\n"
    )
    words = ("run", "--images", "charts.parquet", "--out", "run", "--iterations", 6, *LAG)
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "harmless" not in done.stderr
    metrics = [
        row for folder in sorted(Path("run").glob("it*")) for row in chain.rows(folder / "policy/metrics.parquet")
    ]
    assert len({row["step"] for row in metrics}) >= 6
    for row in metrics:
        assert row["effective_sample_size"] >= LEAST_ESS and abs(row["importance_weight"] - 1) < 0.05, row
    assert any(row["effective_sample_size"] < 1 - 1e-6 for row in metrics)  # it has moved
    before = chain.file_bytes(Path("run"))
    assert call(*words).exit_code == 0 and chain.file_bytes(Path("run")) == before


# ------------------------------------------------------------------------------------------------ run --lag


def test_a_run_that_was_stopped_anywhere_ends_in_the_same_files(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of what is sampled while the first iteration is learned, and of the second's update."""
    assert run(*LAG, out="whole", iterations=3).exit_code == 0
    stops: list[tuple[Any, str, int]] = [(rollout, "_count", 7), (update, "_learn", 2)]
    for module, name, last in stops:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted_at(last, getattr(module, name)))
            assert run(*LAG, iterations=3).exit_code == 130
    done = run(*LAG, iterations=3)
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("run")) == chain.file_bytes(Path("whole"))


# A learner takes no step before the next iteration's questions are there.
WATCHED = """
import sys, time
from pathlib import Path
if "ireasoner_cli.workers.worker" in " ".join(sys.orig_argv):
    from stages.learning.learner import Learner
    step = Learner.step
    def taken(self, *given):
        while not Path("two/it0002/questions.parquet").exists():
            time.sleep(0.01)
        return step(self, *given)
    Learner.step = taken
"""


def test_one_worker_samples_while_another_learns(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--benchmark", "benchmark.parquet", *LAG)
    assert run(*asked, out="one").exit_code == 0
    (world / "site").mkdir()
    Path("site/sitecustomize.py").write_text(WATCHED)
    monkeypatch.setenv("PYTHONPATH", f"{world / 'site'}:{test_workers.ROOT}")
    done = run(*asked, "--workers", 2, out="two")
    assert done.exit_code == 0, done.output
    assert not test_workers.left_behind(world)
    assert chain.file_bytes(Path("two")) == chain.file_bytes(Path("one"))
    for words in (
        ("verify", "two"),
        ("report", "two"),
        ("compare", "two/base.parquet", "two"),
        ("inspect", "two"),
        ("inspect", "two/it0002/policy"),
    ):
        looked = call(*words)
        assert looked.exit_code == 0, looked.output
    page = Path("two/report.html").read_text()
    assert "Effective sample size" in page and "it0002, solver: the importance weight is" in page
    assert run(*asked, "--lag", 0, out="two").exit_code == 2  # as it was begun, or not at all


def test_a_lag_is_a_setting_of_update_too(world: Path) -> None:
    Path("ireasoner.toml").write_text(test_run.SETTINGS.replace("[update]", "[update]\nlag = 1"))
    assert run().exit_code == 0
    assert [told(Path(f"run/it000{number}/scored.parquet")) for number in (1, 2)] == [(0, 0), (0, 4)]


def test_what_does_not_go_with_a_lag_is_refused(world: Path) -> None:
    for words, told in (
        ((*LAG, "--keep", 2), "--keep 3"),
        (("--learners", 1), "--lag 1"),
        ((*LAG, "--workers", 2, "--learners", 2), "leaves none to sample"),
        ((*LAG, "--learners", 1), "leaves none to sample"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2 and told in refused.stderr, words
    assert run("--lag", 2).exit_code == 2 and not Path("run").exists()


def test_an_answer_for_one_share_is_kept_while_another_waits() -> None:
    carrier = Script({"learn": [test_workers.LOST]}, size=3)
    answers: dict[int, Answer] = {}
    samplers, learners = Crew(Share(carrier, [1, 2], answers)), Crew(Share(carrier, [0], answers))
    learned = learners.start(["learn"], 1)
    samplers.run([["a"], ["b"], ["c"]])
    assert answers.keys() == {0}
    learned()  # is lost, and begins again
    assert [(worker, words) for worker, words in carrier.told if list(words) == ["learn"]] == [(0, ["learn"])] * 2
    assert {worker for worker, words in carrier.told if list(words) != ["learn"]} == {1, 2} and not answers
