"""A tiny random model folder, built once for all tests here."""

from pathlib import Path

import pytest

from ireasoner_cli.demo import architecture, pretrain

TINY = architecture.Sizes(
    hidden=64,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=32,
    vision_hidden=32,
    vision_layers=1,
    vision_heads=1,
    vision_intermediate=32,
)


@pytest.fixture(scope="session")
def tiny_sizes() -> architecture.Sizes:
    return TINY


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = architecture.build_tokenizer(pretrain.tokenizer_texts(0))
    processor = architecture.build_processor(tokenizer, TINY)
    model = architecture.build_model(architecture.build_config(tokenizer, TINY))
    architecture.save_folder(folder, model, processor, pretrain.PROMPTS)
    return folder
