"""The sizes of published models, as their config.json has them; none of them is here."""

from functools import cache
from typing import Any

from stages.models import estimate
from stages.models.estimate import Architecture
from stages.models.loading import prepare_transformers

VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    "hidden_act": "silu", "tokens_per_second": 2,
}  # fmt: skip
# As Qwen2.5-VL's config.json on the hub have them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "3B": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 128000, "vision_config": VISION | {"out_hidden_size": 2048},
    },
    "7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
        "max_position_embeddings": 128000, "vision_config": VISION | {"out_hidden_size": 3584},
    },
    "32B": {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 128000,
        "vision_config": VISION | {"out_hidden_size": 5120, "intermediate_size": 3456},
    },
    "72B": {
        "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 128000,
        "vision_config": VISION | {"out_hidden_size": 8192, "intermediate_size": 3456},
    },
}  # fmt: skip


def model(name: str, dtype: Any) -> Any:
    """It, frozen, on the device that holds nothing."""
    prepare_transformers()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        made = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model("qwen2_5_vl", **PUBLISHED[name]), dtype=dtype
        )
    return made.requires_grad_(False).eval()


@cache
def architecture(name: str) -> Architecture:
    prepare_transformers()
    from transformers import AutoConfig

    return estimate.architecture_of(AutoConfig.for_model("qwen2_5_vl", **PUBLISHED[name]))
