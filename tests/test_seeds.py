"""Runs with several seeds as one side of a comparison: found, paired, and how sure that is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from ireasoner_cli.comparison.evaluations import read_side
from stages.errors import DataError
from stages.evaluation.compare import compare
from stages.evaluation.pooling import pooled_difference, pooled_estimate, spread, t_test
from stages.evaluation.statistics import ALPHA, estimate
from tests.test_cli import fails, ireasoner
from tests.test_compare import BASE, Scores, better, coins, write_run

# ------------------------------------------------------------------------------------------------ the statistics


def drawn(rng: np.random.Generator, seeds: int, questions: int, of_seeds: float, of_questions: float) -> np.ndarray:
    """Differences [S, n] whose mean is 0, but for effects of the seed, of the question and of chance."""
    effects = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_questions, (1, questions))
    return np.clip(effects + rng.normal(0, 0.3, (seeds, questions)), -1, 1)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("of_seeds", [0.0, 0.03])
@pytest.mark.parametrize("of_questions", [0.0, 0.2])
def test_the_interval_covers_the_difference_as_often_as_it_says(
    seeds: int, of_seeds: float, of_questions: float
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        found = t_test([drawn(rng, seeds, 200, of_seeds, of_questions)], [range(200)])
        assert found is not None
        mean, low, high, p = found
        assert low <= mean <= high and (low <= 0 <= high) == (p >= ALPHA)
        held += low <= 0 <= high
    assert held / 300 > 0.925


def test_questions_that_say_the_same_leave_the_t_test_over_the_seeds() -> None:
    by_seed = np.array([0.02, 0.05, 0.01])
    found = t_test([np.repeat(by_seed[:, None], 40, axis=1)], [range(40)])
    expected = ttest_1samp(by_seed, 0)
    assert found is not None and found[3] == pytest.approx(expected.pvalue)
    assert found[1:3] == pytest.approx(tuple(expected.confidence_interval()))


def test_seeds_that_say_the_same_leave_the_error_of_the_questions() -> None:
    scores = coins(1, 0.6, 60)
    pictures = [place // 3 for place in range(60)]
    once, pooled = estimate(scores, pictures), pooled_estimate(np.array([scores] * 3), pictures)
    assert (pooled.mean, pooled.stderr, pooled.low, pooled.high) == pytest.approx(
        (once.mean, once.stderr, once.low, once.high)
    )


def test_what_seeds_do_to_all_tasks_does_not_average_out() -> None:
    """Ten tasks that move with the seed as one are as unsure as one of them; ten that move each by itself are not."""
    rng = np.random.default_rng(2)
    moved = rng.normal(0, 0.05, 5)
    together = [np.repeat(moved[:, None], 50, axis=1)] * 10
    apart = [np.repeat(rng.permutation(moved)[:, None], 50, axis=1) for _ in range(10)]
    pictures = [range(50)] * 10
    assert spread(together, pictures)[1] == pytest.approx(spread(together[:1], pictures[:1])[1])
    assert spread(apart, pictures)[1] < spread(together, pictures)[1] / 3


@given(st.integers(2, 4), st.integers(1, 12), st.integers(1, 5), st.data())
def test_any_scores_have_a_difference(seeds: int, questions: int, clusters: int, data: st.DataObject) -> None:
    share = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=seeds * questions, max_size=seeds * questions)
    base, other = (np.array(data.draw(share)).reshape(seeds, questions) for _ in range(2))
    pictures = [place % clusters for place in range(questions)]
    found = pooled_difference(base, other, pictures)
    assert -1 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= 1 and 0 <= found.p <= 1
    for scores in (base, other):
        bounds = pooled_estimate(scores, pictures)
        assert bounds.low is None or bounds.high is None or 0 <= bounds.low <= bounds.high <= 1


# ------------------------------------------------------------------------------------- which files, and the command


def seeded(folder: str, scores: list[Scores], place: str = "it0002/eval.parquet") -> Path:
    """A folder of runs with seeds 1, 2, … whose evaluations have those scores."""
    for seed, own in enumerate(scores, 1):
        path = Path(folder, f"seed-{seed}", place) if place else Path(folder, f"seed-{seed}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_run(path, own, shuffle=seed == 2)
    return Path(folder)


BY_SEED: list[Scores] = [{**BASE, "chartqa": coins(seed, 0.5)} for seed in (11, 12, 13, 14)]
TUNED: list[Scores] = [
    {**own, "ai2d": better(own["ai2d"], 0.3, seed=30 + place), "chartqa": coins(20 + place, 0.5)}
    for place, own in enumerate(BY_SEED)
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_seeds_are_one_side() -> None:
    full, tuned = seeded("full", BY_SEED), seeded("tuned", TUNED)
    [found] = compare(read_side(full), [read_side(tuned)])
    gained, unclear, same = found.tasks
    changes = [np.mean(other["ai2d"]) - np.mean(base["ai2d"]) for base, other in zip(BY_SEED, TUNED, strict=True)]
    assert found.seeds == (1, 2, 3, 4) and gained.difference.mean == pytest.approx(np.mean(changes))
    assert [task.verdict for task in found.tasks] == ["better", "", ""]
    assert gained.difference.test == "t over seeds and questions" and gained.difference.detectable is None
    assert unclear.difference.high - unclear.difference.low > 0.02
    assert same.difference.mean == 0 and same.difference.p == 1 and same.difference.high > 0
    assert found.average is not None and found.average[0] == pytest.approx(
        np.mean([task.difference.mean for task in found.tasks])
    )
    assert "of 3 tasks over 4 seeds" in found.verdict()


def test_the_base_model_has_no_seeds() -> None:
    write_run(Path("base.parquet"), BASE)
    tuned = seeded("tuned", TUNED, place="")
    [found] = compare(read_side(Path("base.parquet")), [read_side(tuned)])
    assert found.seeds == (1, 2, 3, 4) and found.tasks[0].base.mean == pytest.approx(np.mean(BASE["ai2d"]))
    assert found.tasks[0].verdict == "better"


def test_of_a_run_the_newest_evaluation_is_taken() -> None:
    seeded("full", BY_SEED[:1], "it0005/eval.parquet")
    seeded("full", BY_SEED[1:2], "it0010/eval.parquet")
    Path("full/seed-1/it0011").mkdir()
    for path in (Path("full/seed-1"), Path("full")):  # one seed is a single run
        found = read_side(path)
        assert found.path == Path("full/seed-1/it0010/eval.parquet") and not found.seeds
    Path("full/seed-1/it11").mkdir()  # of a loop by hand, by several processes
    Path("full/seed-1/it0005/eval.parquet").rename("part-1-of-1.parquet")
    Path("full/seed-1/it11/eval").mkdir()
    Path("part-1-of-1.parquet").rename("full/seed-1/it11/eval/part-1-of-1.parquet")
    assert read_side(Path("full")).path == Path("full/seed-1/it11/eval")


def test_what_is_not_to_be_pooled_is_refused() -> None:
    full = read_side(seeded("full", BY_SEED))
    with pytest.raises(DataError, match="only one has a run with seed 3"):
        compare(full, [read_side(seeded("fewer", TUNED[:2]))])
    with pytest.raises(DataError, match=r"only one has infovqa"):
        read_side(seeded("mixed", [BASE, {"ai2d": BASE["ai2d"], "chartqa": BASE["chartqa"]}]))
    Path("empty/seed-1/it0001").mkdir(parents=True)
    with pytest.raises(DataError, match="no evaluation in this run"):
        read_side(Path("empty"))
    seeded("uneven", BY_SEED[:2], "it0005/eval.parquet")
    seeded("uneven", BY_SEED[:1], "it0010/eval.parquet")
    with pytest.raises(DataError, match=r"after other iterations each \(it0005, it0010\)"):
        read_side(Path("uneven"))


def test_the_command() -> None:
    seeded("full", BY_SEED)
    seeded("tuned", TUNED)
    done = ireasoner("compare", "full", "tuned", "--plot", "d.svg")
    assert done.returncode == 0, done.stderr
    assert "tuned is better on 1 (ai2d) of 3 tasks over 4 seeds" in done.stdout
    assert "and for the seeds: 1, 2, 3, 4" in done.stderr
    assert "--power is for two single runs" in fails(2, "compare", "full", "tuned", "--power")
    assert ireasoner("compare", "full", "tuned", "--markdown").stdout.startswith("| benchmark |")
