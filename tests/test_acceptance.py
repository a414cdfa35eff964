"""`doctor --deep` and `make accept` on a CPU, with a model that takes no time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from ireasoner_cli.doctor.deep import engine, learner
from ireasoner_cli.doctor.finding import Finding
from stages.learning.model import PolicyModel
from stages.models.finding import Model, find_model
from stages.parameters.sampling import Decoding
from tests.benchmarks import accept, contenders
from tests.benchmarks.shapes import SHAPES


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return find_model(str(model_dir))


def well(finding: Finding) -> dict[str, Any]:
    assert finding.verdict == "ok", finding
    return finding.figures


def test_the_learner_is_well(model: Model, tmp_path: Path) -> None:
    assert well(learner.attention(model))["wrong_lengths"] == []
    assert len(set(well(learner.repeatable(model, tmp_path))["digests"])) == 1
    assert well(learner.gradient(model, tmp_path))["cosine"] == pytest.approx(1, abs=1e-4)
    assert well(learner.timed_step(model))["step_seconds"] > 0


def test_a_kernel_that_is_wrong_at_some_lengths_is_found(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's memory-efficient attention was, for the last query of a block of 64."""
    states = PolicyModel.states

    def wrong(*arguments: Any) -> torch.Tensor:
        found = states(*arguments)
        if len(found) % 64 == 2:
            found[-1] = found[0]
        return found

    monkeypatch.setattr(PolicyModel, "states", wrong)
    found = learner.attention(model)
    assert found.verdict == "FAIL" and found.figures["wrong_lengths"] == [2, 66, 130, 194, 258]


@pytest.fixture
def trial(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> engine.Trial:
    """On a bare machine, where transformers samples."""
    monkeypatch.setattr(engine, "adapters", lambda model: "vLLM is not installed")
    monkeypatch.setattr(engine, "EACH", 2)
    monkeypatch.setattr(engine, "DECODING", Decoding(max_tokens=12))
    return engine.Trial(model, tmp_path)


def test_the_sampler_of_a_bare_machine_is_well(trial: engine.Trial) -> None:
    for step in (trial.opens, trial.samples, trial.swaps, trial.sleeps, trial.agrees, trial.wakes, trial.closes):
        well(step())


def test_an_adapter_that_the_sampler_drops_is_found(trial: engine.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.opens()
    opened = trial._open
    monkeypatch.setattr(trial, "_open", lambda adapter: opened(None))
    trial.samples()
    assert trial.swaps().verdict == trial.agrees().verdict == "FAIL"


# ------------------------------------------------------------------------------------------ make accept


def test_a_page_is_written_and_each_contender_is_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"failed": 0, "findings": [{"verdict": "ok", "about": "attention", "text": "11 lengths | well"}]}
    monkeypatch.setattr(accept, "examined", lambda model: found)
    with pytest.raises(typer.Exit) as left:
        accept.main(tiny=True, model=None, repetitions=1, out=tmp_path)
    assert left.value.exit_code == 0
    content = json.loads((tmp_path / "accept.json").read_text())
    raced = {row["contender"]: row for row in content["race"]}
    assert {contenders.Ours.name, contenders.Plain.name} <= raced.keys() and all(
        row["finite"] for row in raced.values()
    )
    shares = raced[contenders.Ours.name]["shares"]
    assert {"vision", "prompt", "completions", "vocabulary", "backward"} < shares.keys()
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    page = (tmp_path / "accept.md").read_text()
    for part in ("an update step", "learning, in all", "plain loop", "vocabulary", "11 lengths ∣ well"):
        assert part in page


def test_goals_are_judged_for_the_shape_they_are_for() -> None:
    race = [{
        "contender": contenders.Ours.name, "seconds": 0.4, "of the matrix rate": 0.45, "held GiB": 16.0,
        "peak MiB": 9000.0, "tokens/s": 3200.0, "finite": True, "shares": {},
    }, {"contender": contenders.Trl.name, "failed": 1}]  # fmt: skip
    rollout = [{"contender": "ireasoner rollout", "of bare vLLM": 0.93, "tokens/s": 6400.0}]
    figures = accept.figures("7b", race, rollout)
    tokens = SHAPES["7b"].samples * SHAPES["7b"].completion_tokens
    assert figures["end to end"] == pytest.approx(tokens / (tokens / 6400 + 0.4))
    assert figures["training"] == pytest.approx(2500 * (tokens / 6400 + 0.4) / 3600)
    content: dict[str, Any] = {
        "when": "today", "version": "1", "shape": "7b", "figures": figures, "race": race, "rollout": rollout,
        "doctor": {"failed": 0, "findings": []},
    }  # fmt: skip
    rows = [line for line in accept.page(content).splitlines() if line.endswith("| yes |") or line.endswith("no** |")]
    assert [line.split(" | ")[-1].strip(" |") for line in rows[:4]] == ["yes", "yes", "yes", "**no**"]
    assert "failed" in accept.page(content)
    assert "**no**" not in accept.page(content | {"shape": "tiny"})
