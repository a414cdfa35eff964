"""The branches that only a GPU takes, as far as they can be tested without one.

The learner runs as it does there, with bfloat16 weights on a device of their own, so that a tensor left on the CPU, or
two dtypes that do not fit, are found here.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import EngineError, UsageError
from stages.learning import checking
from stages.learning import learner as learning
from stages.learning import loss as losses
from stages.learning import model as models
from stages.learning.learner import Learner, TrainingGroup, UpdateParams
from stages.learning.model import PolicyModel
from stages.learning.packing import TOKENS_PER_PASS
from stages.learning.ranks import Ranks
from stages.models import device as devices
from stages.models.device import memory_bounded, repeatable
from stages.models.finding import Model, find_model
from stages.models.loading import prepare_transformers
from stages.parameters.sampling import EngineOptions
from stages.policy import ADAPTER_FILE, OPTIMIZER_FILE, RoleState
from stages.sampling import Wanted, open_sampler
from stages.sampling.vllm import VllmSampler, _prepare_environment
from tests.conftest import needs_vllm
from tests.other_device import DEVICE, OtherDevice, move
from tests.test_learning import TEXTS, an_example, gradient


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return find_model(str(model_dir))


@pytest.fixture(scope="module")
def groups(model: Model) -> list[TrainingGroup]:
    """Two groups of ragged completions, one of a single token."""
    processor = PolicyModel(model, seed=0)
    examples = an_example(model, texts=(*TEXTS[:2], "")), an_example(model, (0.2, 0.9), "blue", TEXTS[:2])
    return [example.group(processor) for example in examples]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU, number 3, as far as torch tells; what the model is asked to be loaded with. Its weights come to lie on
    `DEVICE`, and its vision tower gives features that depend on nothing."""
    prepare_transformers()  # which test comes first is not known
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    load, add_adapter, asked = AutoModelForImageTextToText.from_pretrained, PeftModel.add_adapter, {}

    def from_pretrained(path: Path, **settings: Any) -> Any:
        asked.update(settings)
        base = load(path, **{**settings, "device_map": {"": "cpu"}})
        move(base)
        width = base.config.get_text_config().hidden_size

        def image_features(pixel_values: Tensor, image_grid_thw: Tensor, **others: Any) -> Any:
            assert pixel_values.device == image_grid_thw.device == DEVICE
            features = [torch.zeros(4, width, dtype=base.dtype, device=DEVICE)] * len(image_grid_thw)
            return SimpleNamespace(pooler_output=features)

        # What they compute depends on numbers.
        def rope_index(input_ids: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
            batch, length = input_ids.shape
            return input_ids.new_zeros(3, batch, length), input_ids.new_zeros(batch, 1)

        def placeholder_mask(input_ids: Tensor, inputs_embeds: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
            nowhere = torch.zeros_like(inputs_embeds, dtype=torch.bool)
            return nowhere, nowhere

        base.model.get_image_features, base.model.get_rope_index = image_features, rope_index
        base.model.get_placeholder_mask = placeholder_mask
        return base

    def add_adapter_there(peft_model: Any, *settings: Any) -> None:
        add_adapter(peft_model, *settings)
        move(peft_model)  # from this one device, PEFT takes it that weights are still to come

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    monkeypatch.setattr(PeftModel, "add_adapter", add_adapter_there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(devices, "_gpu_name", lambda number: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # Numbers that are not there cannot be compared.
    monkeypatch.setattr(models, "compare", lambda *given: None)
    monkeypatch.setattr(checking, "fitting_head", lambda head, *given: head)
    monkeypatch.setitem(TOKENS_PER_PASS, DEVICE.type, 60)
    monkeypatch.setitem(losses.POSITIONS_PER_CHUNK, DEVICE.type, 7)
    return asked


@pytest.fixture
def other_device(gpu: dict[str, Any]) -> Iterator[None]:
    with OtherDevice():
        yield


def test_weights_go_to_the_current_gpu_in_bfloat16(gpu: dict[str, Any], model: Model) -> None:
    """By its number: transformers reads them in threads, whose current GPU is the first."""
    with OtherDevice():
        models.load_base(model)
    assert gpu["device_map"] == {"": torch.device("cuda", 3)}
    assert gpu["dtype"] == torch.bfloat16


def test_what_makes_products_repeatable_is_set_before_the_first(
    gpu: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ})
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    torch.backends.cuda.enable_cudnn_sdp(True)
    with OtherDevice():
        models.load_base(model)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # wrong with few heads of keys, and never repeatable


def test_what_an_earlier_model_left_is_freed_before_the_room_is_looked_at(
    gpu: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = {"free": 0}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: room.update(free=2**40))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room["free"], 2**40))
    with OtherDevice():
        models.load_base(model)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 2**40))
    with pytest.raises(EngineError, match="of the GPU 0"):
        models.load_base(model)


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_a_step_leaves_nothing_on_the_cpu(checkpointing: bool, model: Model, groups: list[TrainingGroup]) -> None:
    learner = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    found = gradient(learner, *groups)
    assert found.keys() == learner.model.parameters(SOLVER).keys()
    assert {(tensor.device, tensor.dtype) for tensor in found.values()} == {(DEVICE, torch.float32)}
    for role, own in ((SOLVER, groups), (PROPOSER, groups[:1])):
        learner.step(role, own)
        assert learner.roles[role].updates == 1


@pytest.mark.usefixtures("other_device")
def test_adapters_and_moments_go_to_disk_and_back(
    model: Model, groups: list[TrainingGroup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[Path, dict[str, Tensor]] = {}
    monkeypatch.setattr(models, "write_tensors", lambda tensors, path: written.update({path: tensors}))
    monkeypatch.setattr(learning, "write_tensors", lambda tensors, path: written.update({path: tensors}))
    learner = Learner(model, UpdateParams(), seed=0)
    learner.step(SOLVER, groups)
    learner.save(tmp_path / "policy")
    assert [path.name for path in written] == [ADAPTER_FILE, ADAPTER_FILE, OPTIMIZER_FILE]
    assert all(tensor.device.type == "cpu" for tensors in written.values() for tensor in tensors.values())

    def stored(path: Path) -> dict[str, Tensor]:
        return {name: torch.ones(tensor.shape) for name, tensor in written[path].items()}

    roles: dict[Role, RoleState] = dict(learner.roles)
    monkeypatch.setattr(learning, "read_state", lambda folder: SimpleNamespace(roles=roles))
    monkeypatch.setattr(learning, "load_file", stored)
    monkeypatch.setattr(models, "load_file", stored)
    again = Learner(model, UpdateParams(), seed=0)
    again.load(tmp_path / "policy")
    again.step(SOLVER, groups)
    assert again.roles[SOLVER].updates == 2


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("role", [SOLVER, None])
def test_hidden_states_of_the_policy_and_of_the_base_model(
    role: Role | None, model: Model, groups: list[TrainingGroup]
) -> None:
    policy = PolicyModel(model, seed=0)
    completions = [torch.tensor(ids) for ids in groups[0].token_ids]
    states = list(policy.token_states(groups[0].prompts[0], completions, role, policy.depth // 2))
    assert [len(own) for own in states] == [len(ids) for ids in completions]
    assert {(own.device, own.dtype) for own in states} == {(DEVICE, torch.bfloat16)}


# ------------------------------------------------------------------------------------- repeatable, bounded


def test_gradients_on_a_gpu_are_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # with which attention stays as it was
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()


FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1 MiB is free."


@pytest.mark.parametrize(("text", "needed"), [(FULL, " (2.00 GiB more were asked for)"), ("out of memory", "")])
def test_a_full_gpu_is_said_in_one_line_with_what_helps(text: str, needed: str) -> None:
    with pytest.raises(EngineError) as raised, memory_bounded("use less"):
        raise torch.OutOfMemoryError(text)
    assert str(raised.value) == f"the GPU's memory is full{needed}; use less"


@pytest.mark.parametrize("where", ["the prompts", "the moments"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_that_does_not_fit_names_the_option_that_helps(
    checkpointing: bool, where: str, model: Model, groups: list[TrainingGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    learner = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    if where == "the prompts":
        monkeypatch.setattr(learner.model, "prompts", full)
    else:
        monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(EngineError, match="--max-pixels") as raised:
        learner.step(SOLVER, groups)
    assert ("--gradient-checkpointing" in str(raised.value)) is not checkpointing


# --------------------------------------------------------------------------------------------- which device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As torch for CUDA 13 finds a machine whose GPU it cannot use; where its driver's file would be."""
    devices._say.cache_clear()

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nUpdate it.")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    return tmp_path / "version"


def test_a_gpu_that_cannot_be_used_is_an_error_with_its_reason(
    no_gpu: Path, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whatever loads a model: else it would compute for days on the CPU."""
    no_gpu.touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    loads: list[Callable[[], Any]] = [
        lambda: models.load_base(model),
        lambda: open_sampler(Wanted("transformers", model)),
        lambda: open_sampler(Wanted("vllm", model)),
        lambda: Ranks().__enter__(),
    ]
    for load in loads:
        with pytest.raises(EngineError, match=r"too old \(found version 12020\)\.\).*driver 580 or later"):
            load()
    assert not capsys.readouterr().err


def test_a_gpu_that_is_named_and_not_there_is_an_error(no_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(EngineError, match="the GPU that CUDA_VISIBLE_DEVICES=7 names cannot be used"):
        devices.this_device()


@pytest.mark.parametrize("why", ["no driver", "a CPU is meant", "a build for CPUs"])
def test_else_it_is_the_cpu_and_said_once(
    why: str, no_gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if why != "no driver":
        no_gpu.touch()
    if why == "a CPU is meant":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if why == "a build for CPUs":
        monkeypatch.setattr(torch.version, "cuda", None)
    for _ in range(2):
        assert devices.this_device().recorded(ranks=1) == {"name": "cpu", "dtype": "float32", "ranks": 1}
    said = capsys.readouterr()
    assert said.err == "on the CPU, in float32\n" and not said.out


@pytest.mark.usefixtures("gpu")
def test_the_gpu_is_said_with_its_number_and_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    devices._say.cache_clear()
    assert devices.this_device().recorded() == {"name": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16"}
    assert capsys.readouterr().err == "on cuda:3, NVIDIA H100 80GB HBM3, bf16\n"


# ---------------------------------------------------------------------------------- processes and engines


@needs_vllm
@pytest.mark.parametrize("used", [True, False])
def test_what_torch_keeps_of_a_gpu_is_given_back_before_an_engine_opens(
    used: bool, gpu: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a learner: for the engine's own process it is not free. A GPU that is not in use stays so."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(VllmSampler, "_start", lambda *_: done.append("started"))
    VllmSampler(Wanted("vllm", model))
    assert done == (["emptied", "started"] if used else ["started"])


@pytest.fixture
def called(gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What `Ranks` asks of torch, as one of two processes."""
    calls: list[tuple[str, Any]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(
            torch.distributed, name, lambda *args, name=name, **settings: calls.append((name, (args, settings)))
        )
    return calls


def test_a_process_has_its_own_gpu_before_it_joins_the_others(
    called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    device = torch.device("cuda", 1)
    with Ranks() as ranks:
        assert called == [("set_device", device), ("init_process_group", (("nccl",), {"device_id": device}))]
        assert ranks.size == 2
    assert [name for name, _ in called[2:]] == ["barrier", "destroy_process_group"]


@pytest.mark.parametrize("others", [1, 2])
def test_a_process_that_has_joined_the_others_stays(
    others: int, called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a group of as many; one of its own, which vLLM opens on a CPU, makes room."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: others)
    with Ranks():
        pass
    joined = ["destroy_process_group", "init_process_group", "barrier", "destroy_process_group"]
    assert [name for name, _ in called[1:]] == (["barrier"] if others == 2 else joined)


def test_ranks_are_the_same_while_nobody_has_left(
    called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = object()
    monkeypatch.setattr(torch.distributed.group.__class__, "WORLD", property(lambda own: group))
    with Ranks() as one, Ranks() as two:
        assert one == two
    group = object()
    with Ranks() as later:
        assert later != one
    monkeypatch.setenv("RANK", "0")
    with Ranks() as other:
        assert other != later


@pytest.mark.parametrize("theirs", [None, "Ring"])
def test_sums_over_gpus_come_in_one_order(
    theirs: str | None, called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not added up by the switch between them, unless the user has it so."""
    monkeypatch.setattr(os, "environ", {**os.environ, "LOCAL_RANK": "1"} | ({"NCCL_ALGO": theirs} if theirs else {}))
    set_then: list[str | None] = []
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **__: set_then.append(os.environ.get("NCCL_ALGO"))
    )
    with Ranks():
        pass
    assert set_then == [theirs or "^NVLS"]


def test_a_process_that_fails_does_not_wait_for_the_others(
    called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(EngineError), Ranks():
        called.clear()
        raise EngineError("full")
    assert not called


def test_more_processes_than_gpus_are_refused(called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UsageError, match="--nproc-per-node 4"), Ranks():
        pass
    assert not called


@pytest.mark.parametrize("theirs", [None, "fork"])
def test_vllm_does_not_fork_a_process_that_has_asked_for_gpus(
    theirs: str | None, gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked from it, none can use one; what the user has set stays."""
    monkeypatch.setattr(os, "environ", {"VLLM_WORKER_MULTIPROC_METHOD": theirs} if theirs else {})
    _prepare_environment(EngineOptions(), debug=False)
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == (theirs or "spawn")
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ
