"""Adapters on the CPU: what vLLM computes from copies of their weights, to the bit."""

from typing import Any

import pytest
import torch

from stages.sampling.cpu_adapters import read_adapters_in_place

TOKENS, RANK, WIDTH, OUT = 37, 16, 128, 344


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's own, and whatever is put in place of its methods put back."""
    module = pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
    own = module.PunicaWrapperCPU
    for name in ("_shrink_prefill", "_expand_slice_prefill"):
        monkeypatch.setattr(own, name, getattr(own, name))
    return own(64, 8, "cpu", max_loras=2)


def linear(
    wrapper: Any, adapters: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's outputs before and with the adapters of these tokens."""
    wrapper._token_lora_indices[:TOKENS] = adapters
    wrapper.indices_len[0] = TOKENS
    wrapper._update_prefill_metadata(wrapper.token_lora_indices)
    wrapper.is_prefill = True
    draws = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, WIDTH), (2, 1, RANK, WIDTH), (2, 1, OUT, RANK), (TOKENS, 2 * OUT))
    x, down, up, before = (torch.randn(shape, generator=draws).to(dtype) for shape in shapes)
    out = before.clone()
    wrapper.add_lora_linear(out, x, (down, down), (up, up), 0.5, (OUT, OUT))
    return before, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "adapters",
    [torch.zeros(TOKENS), torch.ones(TOKENS), torch.arange(TOKENS) // 20],
    ids=["first", "second", "both"],
)
def test_the_numbers_are_vllms_own(wrapper: Any, adapters: torch.Tensor, dtype: torch.dtype) -> None:
    before, theirs = linear(wrapper, adapters, dtype)
    read_adapters_in_place()
    _, ours = linear(wrapper, adapters, dtype)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)


def test_tokens_without_an_adapter_stay_as_they_are(wrapper: Any) -> None:
    read_adapters_in_place()
    before, after = linear(wrapper, torch.arange(TOKENS) // 20 - 1)
    assert torch.equal(after[:20], before[:20])
    assert not torch.equal(after[20:], before[20:])
