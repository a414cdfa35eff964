"""`export`: the merged checkpoint is the base model with the adapter on, to everyone who loads it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.contract import PROPOSER, SOLVER, InputRef, Metadata, PolicyRef
from stages.errors import DataError, EngineError, UsageError
from stages.export import LINEAGE_FILE, export
from stages.learning.control import Baseline
from stages.learning.model import PolicyModel
from stages.models.finding import Model, find_model
from stages.models.fitting import weight_bytes
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Decoding, Pixels
from stages.policy import OPTIMIZER_FILE, PolicyState, RoleState, read_state, write_state
from stages.sampling import Request, Wanted, open_sampler
from tests import chain
from tests.conftest import needs_vllm
from tests.test_learning import picture, stock_model
from tests.test_sampling import sampled


def write_policy(model: Model, folder: Path, scale: float = 0.1) -> Path:
    """A policy directory whose adapters have moved."""
    learned = PolicyModel(model, seed=0)
    torch.manual_seed(3)
    folder.mkdir()
    for role in (SOLVER, PROPOSER):
        with torch.no_grad():
            for parameter in learned.parameters(role).values():
                parameter.add_(scale * torch.randn_like(parameter))
        learned.save_adapter(role, folder / role)
    params = {"lr": 1e-5, "score": {"decay": 0.15, "rollout": {"prompt": "````\n# not a heading\n{question}"}}}
    lineage = Metadata("update", params, 7, (InputRef("scored.parquet", "ab"),), model.ref, PolicyRef())
    roles = {role: RoleState(Baseline(), 1e-3, 12) for role in (SOLVER, PROPOSER)}
    save_file({}, folder / OPTIMIZER_FILE)
    write_state(folder, PolicyState(48, roles, lineage, learned.lora))
    return folder


@pytest.fixture
def policy(workdir: Path) -> Path:
    return write_policy(find_model("model"), Path("policy"))


def logits(model: Model, loaded: torch.nn.Module) -> torch.Tensor:
    inputs = PromptBuilder(model, Pixels()).inputs((picture("red"),), "Which colour?")
    with torch.no_grad():
        return loaded(**inputs).logits.float()


def test_the_merged_model_is_the_base_model_with_the_adapter(policy: Path) -> None:
    base = find_model("model")
    result = export(policy, Path("merged"))
    assert result.summary == {"step": 48, "merged": 14} and not result.reused  # 7 projections in 2 layers
    merged = find_model("merged")
    with_adapter = logits(base, stock_model(base, policy / SOLVER))
    assert torch.allclose(logits(merged, stock_model(merged)), with_adapter, atol=1e-4)
    assert not torch.allclose(logits(base, stock_model(base)), with_adapter, atol=1e-1)

    before, after = (load_file(model.path / "model.safetensors") for model in (base, merged))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 14 and all("_proj.weight" in name and "visual" not in name for name in changed)
    copied = set(chain.file_bytes(base.path)) - {"model.safetensors"}
    ours = chain.file_bytes(Path("merged"))
    assert set(ours) == copied | {"model.safetensors", LINEAGE_FILE, "README.md"}
    assert all(ours[name] == (base.path / name).read_bytes() for name in copied)
    assert merged.ref.sha256 != base.ref.sha256


def test_weights_that_are_there_once_more_are_left_out(workdir: Path) -> None:
    """In the form of Mistral's own software, which vLLM would serve in place of what was learned."""
    shutil.copytree("model", "both", symlinks=False)
    shutil.copy("both/model.safetensors", "both/consolidated.safetensors")
    for name in ("params.json", "consolidated.safetensors.index.json"):
        Path("both", name).write_text("{}")
    both, plain = find_model("both"), find_model("model")
    assert both.ref.sha256 == plain.ref.sha256 and weight_bytes(both) == weight_bytes(plain)
    export(write_policy(both, Path("learned")), Path("merged"))
    there = {*chain.file_bytes(Path("merged"))} - {LINEAGE_FILE, "README.md"}
    assert there == {*chain.file_bytes(plain.path)}


def test_types_and_several_weight_files_stay_as_they_are(workdir: Path) -> None:
    """A checkpoint in two bfloat16 files, with the names that newer transformers give."""
    model = find_model("model")
    folder = Path("split")
    folder.mkdir()
    for name, content in chain.file_bytes(model.path).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    renamed = {name.replace("model.", "model.language_model.", 1): t.bfloat16() for name, t in weights.items()}
    names = sorted(renamed)
    for place, half in enumerate((names[::2], names[1::2]), 1):
        save_file({name: renamed[name] for name in half}, folder / f"model-{place}-of-2.safetensors", {"format": "pt"})
    policy = write_policy(model, Path("policy"))
    state = read_state(policy)
    write_state(policy, replace(state, lineage=replace(state.lineage, model=find_model("split").ref)))

    export(policy, Path("merged"), "split")
    adapter = load_file(policy / SOLVER / "adapter_model.safetensors")
    for place, half in enumerate((names[::2], names[1::2]), 1):
        with safe_open(Path(f"merged/model-{place}-of-2.safetensors"), "pt") as merged:
            assert sorted(merged.keys()) == half and merged.metadata() == {"format": "pt"}
            for name in half:
                expected = renamed[name].float()
                path = f"base_model.model.{name.removesuffix('.weight')}"
                if f"{path}.lora_A.weight" in adapter:
                    expected = expected + 2 * adapter[f"{path}.lora_B.weight"] @ adapter[f"{path}.lora_A.weight"]
                assert merged.get_tensor(name).dtype == torch.bfloat16
                assert torch.equal(merged.get_tensor(name), expected.bfloat16())


@needs_vllm
def test_vllm_loads_it_as_a_plain_model(policy: Path) -> None:
    export(policy, Path("merged"))
    requests = [Request((picture(colour),), "Which colour?", 100 + i) for i, colour in enumerate(("red", "blue"))]
    greedy = Decoding(temperature=0.0, max_tokens=8)
    merged = open_sampler(Wanted("vllm", find_model("merged")))
    adapted = open_sampler(Wanted("transformers", find_model("model"), policy / SOLVER))
    for one, other in zip(sampled(merged, requests, greedy), sampled(adapted, requests, greedy), strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    merged.close()


def test_the_model_card_says_where_it_comes_from(policy: Path) -> None:
    export(policy, Path("merged"))
    card = Path("merged/README.md").read_text()
    lineage = json.loads(Path("merged", LINEAGE_FILE).read_text())
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert lineage["policy"]["step"] == 48 and lineage["policy"]["sha256"] in card
    assert str(find_model("model").ref.sha256) in card and "arXiv 2601.05877" in card
    assert '"lr": 1e-05' in card and '"decay": 0.15' in card
    outside = "".join(card.split("```````")[::2])  # a fence longer than any in the prompt
    assert "not a heading" in card and "not a heading" not in outside
    assert str(Path().resolve()) not in card


def test_done_is_done_and_nothing_else_is_written_over(policy: Path) -> None:
    export(policy, Path("merged"))
    before = chain.file_bytes(Path("merged"))
    assert export(policy, Path("merged")).reused
    write_policy(find_model("model"), Path("other"), scale=0.2)
    with pytest.raises(UsageError, match=r"made differently.*policy\.sha256"):
        export(Path("other"), Path("merged"))
    assert chain.file_bytes(Path("merged")) == before
    assert not export(Path("other"), Path("merged"), force=True).reused
    assert chain.file_bytes(Path("merged")) != before
    for place, says in (("pool", "in the way"), ("policy", "policy"), ("policy/merged", "policy"), ("model", "base")):
        with pytest.raises(UsageError, match=says):
            export(policy, Path(place))
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_the_command_prints_where_it_is(policy: Path) -> None:
    for summary in ("step 48, merged 14", "up to date"):
        done = CliRunner().invoke(app, ["export", "policy", "--merge", "merged"])
        assert (done.exit_code, done.stdout) == (0, "merged\n") and summary in done.stderr
    assert CliRunner().invoke(app, ["export", "pool", "--merge", "merged"]).exit_code == 3


def test_an_interrupted_export_leaves_nothing_and_is_done_again(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stages.export._add", dies)
        with pytest.raises(KeyboardInterrupt):
            export(policy, Path("merged"))
    assert not Path("merged").exists()
    assert not export(policy, Path("merged")).reused
    assert not Path(".merged.partial").exists()


def test_what_cannot_be_merged_is_an_error(policy: Path, workdir: Path) -> None:
    state = read_state(policy)

    def refused(message: str) -> None:
        write_state(policy, state)  # changed on purpose: not damage
        with pytest.raises(DataError, match=message):
            export(policy, Path("merged"))

    config = policy / SOLVER / "adapter_config.json"
    plain = config.read_text()
    unlike: dict[str, object] = {
        "use_dora": True, "use_rslora": True, "fan_in_fan_out": True, "bias": "all", "r": 0, "peft_type": "IA3",
        "modules_to_save": ["lm_head"], "rank_pattern": {"q": 4}, "alpha_pattern": {"q": 4},
    }  # fmt: skip
    for key, value in unlike.items():
        config.write_text(json.dumps({**json.loads(plain), key: value}))
        refused("adapter_config")
    config.write_text(plain)
    weights = policy / SOLVER / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}, weights)
    refused(r"layers\.9.* does not fit")
    save_file({name: tensor[:, :1].contiguous() for name, tensor in tensors.items()}, weights)
    refused("adapter")
    weights.write_bytes(b"torn")
    refused("damaged")
    save_file(tensors, weights)
    write_state(policy, state)
    with pytest.raises((EngineError, UsageError)):
        export(policy, Path("merged"), "pool")
    assert not Path("merged").exists() and not Path(".merged.partial").exists()
