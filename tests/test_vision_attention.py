"""The windows of a vision tower, attended to together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.models.loading import prepare_transformers
from stages.models.vision_attention import WINDOWS, batch_windows

LAYERS, FULL = 4, 3  # of which layer 3 sees the whole image


@pytest.fixture
def tower() -> Any:
    """Narrow, and with Qwen2.5-VL's own patches of 14 and windows of 112 pixels."""
    prepare_transformers()
    from transformers.models.qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    config = Qwen2_5_VLVisionConfig(
        depth=LAYERS,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=16,
        fullatt_block_indexes=[FULL],
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return Qwen2_5_VisionTransformerPretrainedModel(config).eval().requires_grad_(False)


def patches(*grids: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images of so many patches in height and width: their pixels [patches, 1176], and grid [images, 3]."""
    grid = torch.tensor([(1, *each) for each in grids])
    return torch.randn(int(grid.prod(1).sum()), 1176, dtype=dtype, generator=torch.manual_seed(1)), grid


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shape of the queries of each call of attention."""
    seen: list[torch.Size] = []
    attend: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        seen.append(query.shape)
        return attend(query, *arguments, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return seen


GRIDS = [
    [(64, 64)],  # 896 × 896 pixels: 64 windows alike
    [(20, 28)],  # an edge on the right, one below, and a corner
    [(4, 2)],  # less than a window
    [(16, 16), (20, 28), (2, 2), (20, 28)],  # several images, whose whole-image windows differ in length
]


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_it_is_the_attention_of_each_window(
    tower: Any, grids: list[tuple[int, int]], dtype: torch.dtype, close: float
) -> None:
    pixels, grid = patches(*grids, dtype=dtype)
    tower.to(dtype)
    stock = tower(pixels, grid_thw=grid).pooler_output
    batch_windows(tower)
    assert tower.config._attn_implementation == WINDOWS
    ours = tower(pixels, grid_thw=grid).pooler_output
    assert ours.shape == stock.shape and torch.allclose(ours, stock, rtol=0, atol=close * float(stock.abs().max()))


@pytest.mark.parametrize(("grid", "a_layer"), [((64, 64), 1), ((64, 62), 2), ((62, 60), 4)])
def test_an_image_takes_a_few_calls_a_layer(
    tower: Any, calls: list[torch.Size], grid: tuple[int, int], a_layer: int
) -> None:
    """896 × 896 pixels are 64 windows, as many calls with transformers' own; and what lies aside of a whole number of
    windows makes four lengths of them."""
    batch_windows(tower)
    pixels, sizes = patches(grid)
    tower(pixels, grid_thw=sizes)
    assert len(calls) == a_layer * (LAYERS - 1) + 1 and a_layer <= 4
    assert sum(shape[0] * shape[2] for shape in calls) == LAYERS * len(pixels)


def test_lengths_are_read_from_the_device_once_a_pass(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time waits for a GPU to come to it."""
    batch_windows(tower)
    pixels, grid = patches((20, 28))
    waits: list[int] = []
    read = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        waits.append(len(tensor))
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    tower(pixels, grid_thw=grid)
    assert waits.count(13) == waits.count(2) == 1  # the boundaries of 12 windows, and of the image


def test_a_tower_without_windows_is_left_alone() -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=1, embed_dim=16, hidden_size=16, num_heads=2)
    config._attn_implementation = "sdpa"
    other = Qwen2VisionTransformerPretrainedModel(config)
    batch_windows(other)
    assert other.config._attn_implementation == "sdpa"
