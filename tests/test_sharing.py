"""An engine and a learner on one GPU: both there, or in turns. Of a machine that is not here: by its figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ireasoner_cli.running import memory
from ireasoner_cli.workers.resident import Residents
from stages.contract import ModelRef
from stages.errors import EngineError
from stages.job import Start
from stages.learning import warm
from stages.learning.learner import Learner
from stages.learning.warm import WarmModel
from stages.models import device, estimate, sharing
from stages.models.estimate import GIB, WHOLE
from stages.models.finding import Model, find_model
from stages.parameters.sampling import EngineOptions
from stages.parameters.update import UpdateParams
from stages.policy import DEFAULT_LORA, Policy
from stages.sampling import Wanted
from tests import published

CARD, SMALL = 80 * 10**9, 24 * 10**9


@pytest.fixture
def seven(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Qwen2.5-VL-7B, of which nothing is here but its sizes."""
    sizes = published.architecture("7B")
    monkeypatch.setattr(sharing, "architecture", lambda folder: sizes)
    monkeypatch.setattr(sharing, "weight_bytes", lambda model: sizes.weights)
    return Model(ModelRef("seven"), Path("seven"))


def test_a_7b_engine_and_its_learner_are_both_on_80_gb(seven: Model) -> None:
    sizes = published.architecture("7B")
    share = sharing.share_beside_learner(seven, CARD)
    assert share is not None and 0.55 < share < 0.65
    assert sharing.has_room(seven, int((1 - share) * CARD))
    assert estimate.cached_tokens(sizes, estimate.sampling(sizes, share * CARD)) > 400_000
    higher, lower = (sharing.share_beside_learner(seven, CARD, lora=replace(DEFAULT_LORA, rank=r)) for r in (8, 128))
    assert higher and lower and higher >= share > lower


def test_where_too_little_is_left_they_take_turns(seven: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharing.share_beside_learner(seven, SMALL) is None
    assert sharing.share_beside_learner(seven, 48 * 10**9) is None  # weights twice, and hardly a cache
    assert sharing.share_beside_learner(seven, 48 * 10**9, gpus=4) is not None
    assert not sharing.has_room(seven, int(0.08 * CARD))

    def unknown(folder: Path) -> None:
        raise EngineError("cannot be laid out")

    monkeypatch.setattr(sharing, "architecture", unknown)
    assert sharing.share_beside_learner(seven, CARD) is None and not sharing.has_room(seven, CARD)


def test_what_sleeps_has_to_fit_the_machines_memory(seven: Model, tmp_path: Path) -> None:
    sharing.check_turns(seven, 8, 8, 256 * GIB)
    with pytest.raises(EngineError, match=r"8 \+ 8 of them that sleep: 247\.1 GiB \(15\.4 each\), of 128\.0 GiB"):
        sharing.check_turns(seven, 8, 8, 128 * GIB)
    (tmp_path / "meminfo").write_text("MemTotal:  4096 kB\nMemAvailable:    2048 kB\n")
    assert sharing.free_host_bytes(tmp_path / "meminfo") == 2 * 2**20
    assert sharing.free_host_bytes(tmp_path / "none") is None


class Settings:
    """Of stages: what `Prepare` finds."""

    def __init__(self, **found: Any) -> None:
        learner = {"lora_rank": None, "gradient_checkpointing": False, "load_in_4bit": False, "shard_base": False}
        self.found = {"tensor_parallel": 1, **learner, **found}

    def options(self, *asked: object) -> dict[str, Any]:
        return self.found


@pytest.mark.parametrize(
    ("card", "set_share", "host", "found"),
    [
        (CARD, None, GIB, 0.6),  # both there: nothing sleeps
        (CARD, 0.5, GIB, None),  # as well, by the user's own share
        (CARD, 0.9, 999 * GIB, None),
        (CARD, 0.9, GIB, "that sleep"),
        (SMALL, None, 999 * GIB, None),
        (SMALL, None, GIB, "that sleep"),
        (None, None, GIB, None),  # no GPU
    ],
)
def test_a_run_chooses_what_is_not_set(
    card: int | None, set_share: float | None, host: int, found: Any, seven: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda: card)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: host)
    prepare: Any = Settings(gpu_memory_utilization=set_share)
    start = Start(seven, Policy(None, None, None))  # type: ignore[arg-type]

    def chosen(engines: int = 8) -> float | None:
        return memory.engine_share(prepare, start, {}, Path("run"), engines, ranks=8)

    if isinstance(found, str):
        with pytest.raises(EngineError, match=found):
            chosen()
    else:
        assert chosen() == (found and pytest.approx(found, abs=0.05))
    assert chosen(0) is None  # engines of other machines, of which nothing is known here


# ------------------------------------------------------------------------------------------------ in turns


class Engine:
    """Says what becomes of it."""

    def __init__(self, said: list[str]) -> None:
        self._said, self.awake = said, False

    def has(self, wanted: Wanted) -> bool:
        return self.awake

    def __call__(self, wanted: Wanted) -> None:
        self._said += [] if self.awake else ["engine wakes"]
        self.awake = True

    def sleep(self) -> None:
        self._said += ["engine sleeps"] if self.awake else []
        self.awake = False


class Learning:
    """A WarmModel that says what becomes of it."""

    def __init__(self, said: list[str]) -> None:
        self._said, self.awake = said, False

    def __call__(self, *asked: object) -> None:
        self._said += [] if self.awake else ["model wakes"]
        self.awake = True

    def sleep(self) -> None:
        self._said += ["model sleeps"] if self.awake else []
        self.awake = False


@pytest.mark.parametrize("free", [None, 50 * 10**9, 6 * 10**9])
def test_both_stay_where_both_fit_and_take_turns_where_not(
    free: int | None, seven: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    residents: Any = Residents()
    residents._engine = Engine(said)
    monkeypatch.setattr(warm, "WarmModel", lambda: Learning(said))
    monkeypatch.setattr(device, "free_memory", lambda: free)
    wanted = Wanted("vllm", seven, None, options=EngineOptions())
    for _ in range(2):
        residents.engines(wanted)
        residents.models(seven, 0, False, DEFAULT_LORA)
    once = ["engine wakes", "model wakes"]
    turns = ["engine wakes", "engine sleeps", "model wakes", "model sleeps"]
    assert said == (once if free != 6 * 10**9 else [*turns, *turns[:-1]])
    said.clear()
    residents.sleep()  # for a third
    assert set(said) <= {"engine sleeps", "model sleeps"} and not residents._model.awake


def test_a_model_that_has_slept_is_the_same(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would hold of it is dropped meanwhile, and there again after."""
    models = WarmModel()
    learner = Learner(find_model(str(model_dir)), UpdateParams(), seed=0, models=models)
    model = learner.model
    before = [weight.clone() for weight in model.frozen()]
    places = [weight.data_ptr() for weight in model.frozen()]
    monkeypatch.setattr(warm, "_pinned", lambda tensor: tensor.clone())
    monkeypatch.setattr(warm, "_on_gpu", lambda model: True)
    assert models.awake
    models.sleep()
    assert not models.awake and not set(places) & {weight.data_ptr() for weight in model.frozen()}
    with torch.no_grad():
        for adapter in model.parameters("solver").values():
            adapter.add_(1)
    assert models(find_model(str(model_dir)), 0, False, DEFAULT_LORA, WHOLE, None) is model and models.awake
    assert all(torch.equal(one, other) for one, other in zip(before, model.frozen(), strict=True))
    fresh = Learner(find_model(str(model_dir)), UpdateParams(), seed=0).model
    for name, adapter in fresh.parameters("solver").items():
        assert torch.equal(adapter, model.parameters("solver")[name])
