"""The base in 4 bits: another model than was sampled, learned from as rightly."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.errors import UsageError
from stages.learning.lean import weight_of
from stages.learning.learner import Learner
from stages.models.estimate import architecture
from stages.models.finding import find_model
from stages.models.language_model import layers_name
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.progress import SILENT
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.test_any_model import an_example
from tests.test_learning import disturb, gradient

IN_4_BITS = UpdateParams(load_in_4bit=True)


def test_it_needs_bitsandbytes(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.models.fitting.find_spec", lambda _: None)
    rows = chain.group(0, "pool/0.png", [chain.solution(4), chain.solution(5)])
    scored = score([chain.write_shard(Path("rollouts.parquet"), [rows])], ScoreParams(no_warmup=True)).path
    with pytest.raises(UsageError, match=r"^--load-in-4bit needs bitsandbytes: pip install 'ireasoner\[4bit\]'$"):
        update([scored], IN_4_BITS)
    monkeypatch.undo()
    if importlib.util.find_spec("bitsandbytes"):
        with pytest.raises(UsageError, match="leave one of them out"):
            update([scored], replace(IN_4_BITS, shard_base=True))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_are_those_of_the_numbers_that_4_bits_stand_for(model_dir: Path, checkpointing: bool) -> None:
    """Of the language model's linear layers alone; the others are as they were."""
    pytest.importorskip("bitsandbytes")
    model = find_model(str(model_dir))
    packed = Learner(model, replace(IN_4_BITS, gradient_checkpointing=checkpointing), seed=0)
    whole = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    layers = layers_name(whole.model._base)
    bytes_held = 0
    for name, module in packed.model._base.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            in_4_bits = name.startswith(layers)
            own, stood_for = whole.model._base.get_submodule(name).weight, weight_of(module)
            assert (module.weight.dtype == torch.uint8) == in_4_bits
            assert torch.equal(own, stood_for) != in_4_bits
            bytes_held += module.weight.numel() if in_4_bits else 0
            own.data.copy_(stood_for)
    assert 2 * bytes_held == architecture(model.path).quantisable
    found = []
    for learner in (packed, whole):
        disturb(learner)
        found.append(gradient(learner, an_example(model).group(learner.model)))
    largest = max(float(tensor.abs().max()) for tensor in found[1].values())
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) < 1e-5 * largest


def test_an_update_says_what_they_cost(workdir: Path) -> None:
    """Of completions that the whole numbers have sampled: how far log π is from log μ, and what ŵ makes of it."""
    pytest.importorskip("bitsandbytes")
    sampled = chain.sampling("transformers", max_tokens=16)
    questions = propose(Path("pool"), ProposeParams(groups=2, sampling=sampled), Call(model="model", out=Path("q")))
    rollouts = rollout([questions.path], RolloutParams(samples=2, sampling=sampled))
    scored = score([rollouts.path], ScoreParams(no_warmup=True)).path
    said: list[str] = []

    class Heard:
        track, busy = SILENT.track, SILENT.busy

        def say(self, message: str) -> None:
            said.append(message)

    params = UpdateParams(roles="proposer", proposer_every=1)
    update([scored], params, Call(out=Path("whole")), Heard())
    assert not said
    update([scored], replace(params, load_in_4bit=True), Call(out=Path("packed")), Heard())
    row = chain.rows(Path("packed/metrics.parquet"))[0]
    [cost] = [line for line in said if line.startswith("--load-in-4bit")]  # it may have drifted, too
    assert row["logprob_gap"] > 1e-3 > chain.rows(Path("whole/metrics.parquet"))[0]["logprob_gap"]
    for name, form in (("logprob_gap", ".2g"), ("logprob_gap_max", ".2g"), ("importance_weight", ".4f")):
        assert f"{row[name]:{form}}" in cost
