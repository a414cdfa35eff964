"""A checkpoint as the hub has Qwen2.5-VL: a flat config.json, older names of tensors, preprocessor_config.json and
chat_template.json, and a head of its own or the embedding's."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.contract import SOLVER
from stages.learning.learner import Learner, UpdateParams
from stages.models.finding import Model, find_model
from stages.models.fitting import missing_weights, weight_bytes
from stages.parameters.sampling import Decoding
from stages.sampling import Request, Sample, Wanted, open_sampler
from tests.conftest import build_tiny_model, needs_vllm
from tests.test_as_on_a_gpu import flat
from tests.test_learning import an_example, disturb, gradient, picture


def as_on_the_hub(folder: Path, tied: bool) -> None:
    """Rewrites a folder as transformers 5 saves it."""
    config = json.loads((folder / "config.json").read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    for section, names in ((text, ("layer_types", "model_type")), (vision, ("rope_parameters", "in_channels"))):
        for name in names:
            section.pop(name, None)
    config |= text | {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }
    vision |= {"in_chans": 3, "spatial_patch_size": vision["patch_size"]}
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))

    renamed = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    if not tied:
        renamed.setdefault("lm_head.weight", renamed["model.embed_tokens.weight"].clone())
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})

    processor = json.loads((folder / "processor_config.json").read_text())
    images = processor["image_processor"]
    size = images.pop("size")
    images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    images["processor_class"] = processor["processor_class"]
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").unlink()
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def layouts(request: pytest.FixtureRequest, tmp_path: Path, model_dir: Path) -> tuple[Model, Model]:
    """The same weights as they are saved here, and as on the hub."""
    as_on_the_hub(build_tiny_model(tmp_path / "hub"), request.param)
    return find_model(str(model_dir)), find_model(str(tmp_path / "hub"))


def greedy(sampler: str, model: Model, adapter: Path) -> list[list[int]]:
    asked = [Request((picture(colour),), "Which colour?", 0) for colour in ("red", "blue")]
    with closing(open_sampler(Wanted(sampler, model, adapter))) as opened:  # type: ignore[arg-type]
        found: list[Any] = list(opened.sample(asked, Decoding(temperature=0.0, max_tokens=8)))
    assert all(isinstance(each, Sample) for each in found)
    return [each.token_ids for each in found]


def test_it_is_the_same_model(layouts: tuple[Model, Model], tmp_path: Path) -> None:
    """To the learner, to transformers, and to the estimate of memory."""
    gradients, said = [], []
    for place, model in enumerate(layouts):
        assert not missing_weights(model)
        learner = Learner(model, UpdateParams(), seed=0)
        disturb(learner)
        gradients.append(flat(gradient(learner, an_example(model).group(learner.model))))
        learner.model.save_adapter(SOLVER, tmp_path / str(place))
        said.append(greedy("transformers", model, tmp_path / str(place)))
    assert torch.equal(*gradients) and said[0] == said[1]
    own, hub = map(weight_bytes, layouts)
    head = 0 if layouts[1].config["tie_word_embeddings"] else 2 * len(layouts[1].embedding_table()) * 64
    assert hub == own + head


@needs_vllm
@pytest.mark.parametrize("layouts", [False], indirect=True, ids=["untied"])
def test_vllm_samples_from_it_with_an_adapter(layouts: tuple[Model, Model], tmp_path: Path) -> None:
    model = layouts[1]
    learner = Learner(model, UpdateParams(), seed=0)
    disturb(learner)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    assert greedy("vllm", model, tmp_path / "solver") == greedy("transformers", model, tmp_path / "solver")
