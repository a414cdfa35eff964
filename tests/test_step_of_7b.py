"""A learning step at Qwen2.5-VL-7B's published sizes, on a device that holds and computes nothing: every allocation of
the learner's own code is counted, so that a change that needs more memory is seen without a GPU."""

import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.contract import SOLVER
from stages.learning import attention, lean, loss, model, packing
from stages.learning.learner import Learner, UpdateParams
from stages.learning.loss import Head
from stages.learning.model import PolicyModel, PromptInputs
from stages.learning.rows import TrainingGroup
from stages.models.estimate import GIB
from tests import published

PROMPT, ROWS, TOKENS = 1300, 5, 256


class Live(TorchDispatchMode):
    """The bytes of tensors without memory that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        out = operation(*given, **(named or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if (key := storage._cdata) in self._counted:
            return
        size = storage.nbytes()
        self._counted.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            self._counted.discard(key)
            self.live -= size

        weakref.finalize(storage, gone)

    def leave_out(self, tensors: Any) -> None:
        self._counted.update(tensor.untyped_storage()._cdata for tensor in tensors)


class Attention(torch.autograd.Function):
    """What a GPU's kernels for attention keep: q, k, v, what comes out, and a number a query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, *_ = ctx.saved_tensors
        in_float32 = torch.empty(q.shape, dtype=torch.float32, device=q.device)  # dq is added up so
        return tuple(torch.empty(x.shape, dtype=x.dtype, device=in_float32.device) for x in (q, k, v))


class NoTrial:
    """In the place of the trial of an opened model, which needs numbers."""

    def __init__(self, policy: PolicyModel, forbidden: Any) -> None:
        self._policy = policy

    @contextmanager
    def moved(self) -> Any:
        yield

    def separately(self, base: Any, peft: Any) -> tuple[None, Head]:
        return None, self._policy.head

    def together(self) -> None: ...

    def runs_in_batches(self) -> bool:
        return False


@pytest.fixture
def seven(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a learner of 7B's sizes for bfloat16 on no device."""
    base = published.model("7B", torch.bfloat16)
    from peft import PeftModel

    add = PeftModel.add_adapter

    def add_adapter(self: Any, *given: Any, **named: Any) -> None:
        with torch.device("meta"):  # values for a billion weights would take longer than all else
            add(self, *given, **named)
        for module in self.modules():
            for name, own in module._parameters.items():
                if own is not None and not own.is_meta:
                    module._parameters[name] = torch.nn.Parameter(own.to("meta"), own.requires_grad)

    monkeypatch.setattr(PeftModel, "add_adapter", add_adapter)
    monkeypatch.setattr(model, "skeleton", lambda _: base)
    monkeypatch.setattr(model, "load_base", lambda *_: base)
    monkeypatch.setattr(model, "Examination", NoTrial)
    monkeypatch.setattr(model, "compare", lambda *_: None)
    monkeypatch.setattr(lean, "_same", lambda *_: True)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", lambda q, k, v, **_: Attention.apply(q, k, v))
    monkeypatch.setitem(packing.TOKENS_PER_PASS, "meta", packing.TOKENS_PER_PASS["cuda"])
    monkeypatch.setitem(loss.POSITIONS_PER_CHUNK, "meta", loss.POSITIONS_PER_CHUNK["cuda"])
    checkpoint = SimpleNamespace(ref=SimpleNamespace(name="7B"), forbidden_tokens=(1, 2, 3))
    return lambda checkpointing: Learner(checkpoint, UpdateParams(gradient_checkpointing=checkpointing), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("checkpointing", "budget"), [(False, 9.0), (True, 2.3)])
def test_a_step_stays_within_its_budget(seven: Any, checkpointing: bool, budget: float) -> None:
    """GiB above weights, adapters and moments, of 5 completions of 256 tokens behind 1,300 of prompt."""
    learner = seven(checkpointing)
    prompt = PromptInputs({"input_ids": torch.zeros(1, PROMPT, dtype=torch.long)})
    group = TrainingGroup([prompt], [[5] * TOKENS] * ROWS, [[-1.0] * TOKENS] * ROWS, [0.1] * ROWS)
    learner._largest_gap = torch.zeros(1, device="meta")
    with Live() as live:
        live.leave_out(learner.model._peft.parameters())
        learner._backward(SOLVER, learner._bundles([group], [[0.1] * ROWS]), 1e-3)
    assert 0.8 * budget < live.peak / GIB < budget
