"""The measurement of `tests.evidence.step_truth`, on rollouts of which it is known what it must find."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ireasoner_cli.demo import world
from ireasoner_cli.demo.layout import MODEL
from stages import images
from stages.contract import METADATA_KEY, SOLVER, TRAJECTORY, Metadata, PolicyRef
from stages.models.finding import find_model
from tests import chain
from tests.evidence import records, step_signals, step_truth


def test_charts_of_a_pool_are_those_that_were_drawn(tmp_path: Path) -> None:
    files = world.write_pool(tmp_path, 7, seed=3)
    charts = records.charts(7, seed=3)
    assert [charts[images.sha256(file.read_bytes())].level for file in files] == [1, 2, 3, 1, 2, 3, 1]


def write_rollouts(folder: Path, questions: int) -> None:
    """Three true rollouts, and one whose first step is false, for each question."""
    charts = records.charts(questions, step_truth.SEED)
    rows = []
    for proposal in chain.rows(folder / "questions.parquet"):
        ask = world.understand(proposal["question"])
        solution = world.solve(charts[proposal["images_sha256"][0]], ask) if ask else None
        assert solution is not None
        first = solution.steps[0]
        false = solution.completion.replace(first, first.rsplit(" ", 1)[0] + " 99.", 1)
        rows.append(proposal)
        for index, text in enumerate([solution.completion] * 3 + [false]):
            sampled = {"prompt": proposal["question"], "completion": text}
            sampled["token_ids"] = chain.tokens(str(folder / "model"), text)
            rows.append({**proposal, "role": SOLVER, "sample_index": index, **sampled})
    metadata = Metadata("rollout", {}, 0, (), find_model(str(folder / "model")).ref, PolicyRef())
    schema = TRAJECTORY.with_metadata({METADATA_KEY: metadata.to_json()})
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "rollouts.parquet")


def test_embeddings_find_a_false_step_and_hidden_states_alone_swapped_numbers(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_truth, "QUESTIONS", 12)
    folder = tmp_path / "base"
    step_truth.ask(folder, model_dir)
    write_rollouts(folder, 12)
    step_truth.measure([folder], tmp_path)
    with (tmp_path / "step-truth-all.csv").open() as file:
        found = {(row["embedding"], row["measure"], row["position"], row["among"]): row for row in csv.DictReader(file)}
    for name in ("same text", "static", "static, centred", "hidden, middle layer", "hidden, last layer, others"):
        assert float(found[name, "r_step", "", "pairs"]["estimate"]) == 1.0, name
        assert float(found[name, "step", "1", "pairs"]["estimate"]) == 1.0, name
        assert float(found[name, "r_step / density", "", "gap in pairs"]["low"]) > 0, name
    assert found["static", "r_step", "", "pairs"]["count"] == str(12 * 3)
    assert float(found["density", "r_step", "", "pairs"]["estimate"]) == 0.5
    swapped = "step with two numbers swapped", "", "pairs"
    assert float(found["static", *swapped]["estimate"]) == 0.5
    # Of the three true steps beside it, two are the same, and the third follows another first step.
    assert float(found["hidden, middle layer, centred", *swapped]["estimate"]) >= 2 / 3
    itself = "cosine of a step and itself with two numbers swapped", "", "all"
    assert float(found["static", *itself]["estimate"]) == 1.0
    assert float(found["hidden, middle layer", *itself]["estimate"]) < 0.9999
    with (tmp_path / "step-truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["embedding"] == "same text" and "others" not in {row["embedding"] for row in rows}
    assert rows[3]["pairs"] == "1.000 (1.000 to 1.000)"


def test_the_checkpoint_doubts_a_number_that_no_chart_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_truth, "QUESTIONS", 4)
    folder = tmp_path / "base"
    step_truth.ask(folder, MODEL)
    write_rollouts(folder, 4)
    step_signals.main([folder], tmp_path, groups=4)
    with (tmp_path / "step-signals.csv").open() as file:
        found = {(row["signal"], row["among"]): row for row in csv.DictReader(file)}
    for name in ("mean log-probability", "weakest token", "weakest token with a digit"):
        assert float(found[name, "all"]["estimate"]) == 1.0, name
    assert found["weakest token", "all"]["count"] == str(4 * 3)
    assert 0 < int(found["weakest token with a digit", "all"]["count"]) < 4 * 3  # colours have none
    assert {count for (_, among), row in found.items() if among == "wrong consensus" and (count := row["count"])} == {
        "0"
    }
