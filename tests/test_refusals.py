"""What no engine can take becomes a row with a reason, the same with every sampler, and the run goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from stages import shards
from stages.errors import EngineError
from stages.evaluate import evaluate
from stages.models.finding import Model, find_model
from stages.models.lengths import PictureLengths
from stages.models.prompting import PromptBuilder
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.sampling import EngineOptions, Pixels, Sampling
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.propose import propose
from stages.rollout import rollout
from stages.sampling.warm import WarmEngine
from stages.score import score
from stages.update import update
from tests import chain
from tests.conftest import needs_vllm

SAMPLERS = [
    pytest.param("vllm", marks=needs_vllm),
    "transformers",
    "fake",
]
LARGE = Path("pool/3.png")  # 54 × 54 patches of 28 pixels: 2,916 tokens of a context of 2,048
LONG = "How many? " * 3000
REFUSED = "over my template"


@pytest.fixture
def world(workdir: Path, model_dir: Path) -> Path:
    """A model with the bounds on pixels that Qwen2.5-VL ships, and a template that refuses some questions; a pool in
    which one picture is larger than the context."""
    Path("model").unlink()
    shutil.copytree(model_dir, "model")
    file = Path("model/processor_config.json")
    config = json.loads(file.read_text())
    config["image_processor"]["size"] = {"shortest_edge": 3136, "longest_edge": 12845056}
    file.write_text(json.dumps(config))
    template = Path("model/chat_template.jinja")
    refuse = (
        f"{{% if '{REFUSED}' in messages[0].content[-1].text %}}{{{{ raise_exception('no such thing') }}}}{{% endif %}}"
    )
    template.write_text(refuse + template.read_text())
    Image.new("RGB", (1500, 1500), (10, 80, 200)).save(LARGE)
    return workdir


def sampled(sampler: str, **more: Any) -> Sampling:
    return chain.sampling(sampler, max_tokens=8, **more)


def too_long(reason: str | None) -> bool:
    return (reason or "").startswith("too long: ") and "the context has 2,048; " in (reason or "")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_picture_that_is_too_large_costs_its_row_alone_in_every_stage(world: Path, sampler: str) -> None:
    engines = WarmEngine()
    params = ProposeParams(groups=8, sampling=sampled(sampler))
    made = propose(Path("pool"), params, Call(model="model"), engines=engines)
    rows = chain.rows(made.path)
    [refused] = [row for row in rows if row["images"][0]["path"] == str(LARGE)]
    assert too_long(refused["reject_reason"]) and "--max-pixels" in refused["reject_reason"]
    assert refused["completion"] is None and all(row["completion"] for row in rows if row is not refused)
    assert made.summary["refused"] == 1

    asked = [row | {"question": "How many?", "reject_reason": None} for row in rows]
    asked[0]["question"] = f"This goes {REFUSED}."
    chain.write_shard(Path("asked.parquet"), [asked], "propose")
    made = rollout([Path("asked.parquet")], RolloutParams(samples=2, sampling=sampled(sampler)), engines=engines)
    rolled = chain.rows(made.path)
    lost = [row for row in rolled if row["reject_reason"]]
    assert all(row["role"] == "proposer" for row in lost) and made.summary["refused"] == len(lost)
    assert any(too_long(row["reject_reason"]) for row in lost)
    if sampler != "fake":  # which reads no template
        assert any(row["reject_reason"].startswith("not taken by the model: no such thing") for row in lost)
        assert len(lost) == 2
        score([Path("rollouts.parquet")], ScoreParams())
        assert update([Path("scored.parquet")], UpdateParams()).summary["step"] == 8
    assert len(rolled) == 8 + 2 * (8 - len(lost))

    picture = {"bytes": None, "path": "pool/0.png"}
    questions = [
        {"id": "a", "image": picture, "question": "How many?", "answers": ["3"]},
        {"id": "b", "image": {"bytes": None, "path": str(LARGE)}, "question": "How many?", "answers": ["3"]},
        {"id": "c", "image": picture, "question": LONG, "answers": ["3"]},
        {"id": "d", "image": {"bytes": None, "path": "gone.png"}, "question": "How many?", "answers": ["3"]},
        {"id": "e", "image": picture, "question": "How many?", "answers": ["3"]},
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    evaluation = EvalParams(samples=2, sampling=sampled(sampler))
    made = evaluate([Path("benchmark.parquet")], evaluation, Call(model="model"), engines=engines)
    found = {row["id"]: row for row in chain.rows(made.path)}
    assert [key for key, row in found.items() if row["score"] is not None] == ["a", "e"]
    assert too_long(found["b"]["reject_reason"]) and too_long(found["c"]["reject_reason"])
    assert found["d"]["reject_reason"].startswith("unreadable image: gone.png: No such file")
    assert made.summary["questions"] == 2 and made.summary["unscored"] == 3
    assert made.summary["reject_reasons"] == {"too long": 2, "unreadable image": 1}


@needs_vllm
def test_the_samplers_refuse_the_same_requests_for_the_same_reasons(world: Path) -> None:
    reasons = {}
    for sampler in ("vllm", "transformers"):
        for options, name in ((EngineOptions(), "own"), (EngineOptions(max_model_len=100), "short")):
            params = ProposeParams(groups=8, sampling=sampled(sampler, engine=options))
            made = propose(Path("pool"), params, Call(model="model", out=Path(f"{sampler}-{name}.parquet")))
            rows = chain.rows(made.path)
            reasons[sampler, name] = [(row["reject_reason"], row["token_ids"] is None) for row in rows]
    assert reasons["vllm", "own"] == reasons["transformers", "own"]
    assert reasons["vllm", "short"] == reasons["transformers", "short"]
    assert "the context has 100; lower --max-pixels, or raise --max-model-len" in str(reasons["vllm", "short"])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_smaller_pictures_help_as_the_reason_says(world: Path, sampler: str) -> None:
    params = ProposeParams(groups=8, sampling=sampled(sampler, pixels=Pixels(max_pixels=200704)))
    assert propose(Path("pool"), params, Call(model="model")).summary["refused"] == 0


@pytest.mark.parametrize("sampler", [pytest.param("vllm", marks=needs_vllm), "transformers"])
def test_a_completion_ends_where_the_context_does(world: Path, sampler: str) -> None:
    model = find_model("model")
    prompts = PromptBuilder(model, Pixels())
    with Image.open("pool/0.png") as image:
        length = prompts.inputs((image.convert("RGB"),), prompts_text(model))["input_ids"].shape[1]
    options = EngineOptions(max_model_len=length + 5)
    params = ProposeParams(groups=8, sampling=chain.sampling(sampler, max_tokens=64, engine=options))
    rows = chain.rows(propose(Path("pool"), params, Call(model="model")).path)
    of_it = [row for row in rows if row["token_ids"] is not None]
    assert of_it and all(len(row["token_ids"]) <= 5 for row in of_it)
    assert {row["finish_reason"] for row in of_it if len(row["token_ids"]) == 5} <= {"length", "stop"}
    assert any(row["finish_reason"] == "length" for row in of_it)


def prompts_text(model: Model) -> str:
    return (model.path / "prompts" / "proposer.txt").read_text()


def test_pictures_of_another_make_or_an_older_file_are_measured_as_they_are(world: Path) -> None:
    settings = json.loads(Path("model/processor_config.json").read_text())
    before = PictureLengths(find_model("model"), Pixels()).tokens((64, 48))
    own = settings.pop("image_processor")
    Path("model/processor_config.json").write_text(json.dumps(settings))
    Path("model/preprocessor_config.json").write_text(json.dumps(own))
    assert PictureLengths(find_model("model"), Pixels()).tokens((64, 48)) == before > 0
    Path("model/preprocessor_config.json").write_text(json.dumps(own | {"patch_size": {"height": 16, "width": 16}}))
    assert PictureLengths(find_model("model"), Pixels()).tokens((64, 48)) == 0
    Path("model/preprocessor_config.json").write_text("[]")
    with pytest.raises(EngineError, match=r"preprocessor_config\.json: damaged"):
        PictureLengths(find_model("model"), Pixels())


@pytest.mark.parametrize("pixels", [Pixels(), Pixels(max_pixels=50_000), Pixels(min_pixels=40_000)])
def test_how_many_tokens_a_picture_takes_is_known_without_a_processor(world: Path, pixels: Pixels) -> None:
    model = find_model("model")
    prompts, lengths = PromptBuilder(model, pixels), PictureLengths(model, pixels)
    nothing = prompts.inputs((), "x")["input_ids"].shape[1]
    for size in ((64, 48), (1, 1), (13, 700), (300, 200), (1000, 37), (28, 28), (42, 42)):
        real = prompts.inputs((Image.new("RGB", size),), "x")["input_ids"].shape[1] - nothing - 2
        assert lengths.tokens(size) == real, size
