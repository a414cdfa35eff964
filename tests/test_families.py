"""Vision-language models of many makes. Each of TRAITS stands for what sets its family apart; all of them go through
`python -m tests.families_matrix`."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages.contract import SOLVER, ModelRef
from stages.errors import EngineError
from stages.models import support
from stages.models.finding import Model, find_model
from stages.models.prompting import PromptBuilder
from stages.models.vllm_classes import Vllm, class_and_bases
from stages.parameters.sampling import Pixels
from stages.sampling import resolve_sampler
from tests import families_matrix as matrix
from tests.conftest import needs_vllm, vllm_is_for_cpus
from tests.families import TRAITS, build
from tests.families_page import row

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BOUNDED = {"qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_vl_moe", "glm4v"}  # have bounds on a picture's pixels
SAMPLED = {"qwen3_vl", "gemma4_causal"}  # by vLLM, here; an engine takes seconds, and the matrix opens one for each
AGREED = 1e-4  # nats: what float32 leaves of different orders of the same sums


@dataclass(frozen=True)
class Tuned:
    """A family's checkpoint, and a policy of it that has moved."""

    name: str
    model: Model
    folder: Path

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def pixels(self) -> Pixels:
        return Pixels(max_pixels=5_000) if self.name in BOUNDED else Pixels()


@pytest.fixture(scope="module", params=TRAITS)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp(request.param)
    model = find_model(str(build(request.param, folder / "model")))
    matrix.moved_policy(model, folder / "policy")
    return Tuned(request.param, model, folder)


def test_learner_and_samplers_agree_on_a_policy(tuned: Tuned) -> None:
    """What transformers samples, token by token, is what the learner and one plain pass make of it; so is what vLLM
    does, of the policy or, where it does not serve adapters, of the checkpoint that is made of it."""
    model, adapter, asked = tuned.model, tuned.policy / SOLVER, matrix.requests(tuned.folder)
    learner, plain = (by(model, adapter, tuned.pixels) for by in (matrix.by_the_learner, matrix.by_transformers))
    drawn = {"transformers": matrix.sampled("transformers", model, adapter, tuned.folder, tuned.pixels)}
    merged = matrix.merged(tuned.policy, tuned.folder)
    if vllm_is_for_cpus() and tuned.name in SAMPLED:
        served, own = (model, adapter) if support.adapters(model) is None else (merged, None)
        drawn["vllm"] = matrix.sampled("vllm", served, own, tuned.folder, tuned.pixels)
    whole, base = (matrix.by_transformers(each, None, tuned.pixels) for each in (merged, model))
    for samples in drawn.values():
        assert len(samples) == len(asked) and len({tuple(sample.token_ids) for sample in samples}) > 1
        for by in (learner, plain, whole):
            assert matrix.apart(samples, asked, by) < AGREED
        assert matrix.apart(samples, asked, base) > 0.1  # an adapter that does nothing agrees with everything


def test_two_iterations(tuned: Tuned) -> None:
    """Learned from twice, the second time from a policy of the first, and hidden states besides. The samples are made
    up: that samplers take a policy is tested above."""
    assert matrix.two_iterations(tuned.model.path, tuned.folder / "loop", "fake") == ""


def test_the_page_says_what_works(tuned: Tuned) -> None:
    assert row(tuned.name, tuned.model) in PAGE.read_text(encoding="utf-8"), "run python -m tests.families_page"


# ------------------------------------------------------------------------------------------ bounds on pixels


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v"])
def test_a_bound_is_on_the_pixels_of_the_picture(name: str, tmp_path: Path) -> None:
    """Whatever the family's processor counts: GLM's counts a picture as two frames."""
    model = find_model(str(build(name, tmp_path / "model")))
    picture = Image.new("RGB", (400, 300))
    for most in (8_000, 30_000):
        prompts = PromptBuilder(model, Pixels(max_pixels=most))
        patches = int(prompts.inputs((picture,), "?")["image_grid_thw"].prod())
        assert most / 2 < patches * prompts.processor.image_processor.patch_size**2 <= most


# --------------------------------------------------------------------- what is known before anything is loaded


def with_config(config: dict[str, object]) -> Model:
    """A model that is a configuration and nothing else: whatever is asked of its files fails."""
    model = Model(ModelRef("m", None, None), Path("/nowhere"))
    model.__dict__["config"] = config
    return model


GPU, CPU = Vllm("0.32.0", cpu=False), Vllm("0.32.0", cpu=True)
EXPERTS = with_config(
    {
        "model_type": "qwen3_vl_moe",
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "text_config": {"num_experts": 128},
    }
)
ONEVISION = with_config({"model_type": "llava_onevision", "architectures": ["LlavaOnevisionForConditionalGeneration"]})
RECURRENT = with_config({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]})
GEMMA4 = {"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"]}
BOTH_WAYS = with_config({**GEMMA4, "text_config": {"use_bidirectional_attention": "vision"}})
ONE_WAY = with_config({**GEMMA4, "text_config": {"use_bidirectional_attention": None}})
QWEN = with_config({"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]})


@needs_vllm
@pytest.mark.parametrize(
    ("model", "vllm", "sampling", "adapters"),
    [
        (QWEN, CPU, None, None),
        (ONE_WAY, CPU, None, None),
        (EXPERTS, CPU, None, "models with experts"),
        (EXPERTS, GPU, None, None),
        (ONEVISION, CPU, None, "no adapters of LlavaOnevision"),
        (ONEVISION, GPU, None, "no adapters of LlavaOnevision"),
        (RECURRENT, CPU, "recurrent state", "recurrent state"),
        (RECURRENT, GPU, None, None),
        (BOTH_WAYS, CPU, "one way", "one way"),
        (BOTH_WAYS, GPU, None, None),
        (with_config({"model_type": "paligemma"}), GPU, "the text of a prompt", "the text of a prompt"),
    ],
)
def test_what_vllm_takes(
    model: Model, vllm: Vllm, sampling: str | None, adapters: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "installed_vllm", lambda: vllm)
    for said, expected in ((support.sampling(model), sampling), (support.adapters(model), adapters)):
        assert said is None if expected is None else said is not None and expected in said and "--sampler" in said


@needs_vllm
def test_vllms_classes_are_read_as_python_has_them() -> None:
    from vllm.model_executor.models import ModelRegistry

    for name in (
        "Qwen3_5MoeForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "Glm4vForConditionalGeneration",
    ):
        loaded = ModelRegistry.models[name].load_model_cls()
        ours = {each.__name__ for each in loaded.__mro__ if each.__module__.startswith("vllm.model_executor.models")}
        assert ours <= class_and_bases(name)
    assert class_and_bases("NoSuchForConditionalGeneration") == frozenset()


@needs_vllm
def test_without_being_asked_a_sampler_is_taken_that_takes_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "installed_vllm", lambda: CPU)
    adapter = Path("policy/solver")
    assert resolve_sampler(None, QWEN, adapter) == "vllm"
    assert resolve_sampler(None, RECURRENT, adapter) == "transformers"
    assert resolve_sampler("fake", ONEVISION, adapter) == "fake"
    with pytest.raises(EngineError, match=r"^m: vLLM 0.32.0 on a CPU does not compute .*--sampler transformers"):
        resolve_sampler("vllm", RECURRENT, None)
    for asked in (None, "vllm"):
        assert resolve_sampler(asked, ONEVISION, None) == "vllm"
        with pytest.raises(EngineError, match=r"serves no adapters.*`ireasoner export --merge`"):
            resolve_sampler(asked, ONEVISION, adapter)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "qwen2"}, "no class for images and text of the type 'qwen2'"),
        (
            {"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.y"}},
            "code from a model's own folder is not run",
        ),
        ({"model_type": "qwen2_5_vl", "quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"model_type": "mllama"}, "does not take images as tokens of its prompt"),
        ({}, "no class"),
    ],
)
def test_what_cannot_be_learned_from(config: dict[str, object], reason: str) -> None:
    with pytest.raises(EngineError, match="^m cannot be learned from: .*" + reason):
        support.check_learning(with_config(config))


@needs_vllm
def test_a_policy_that_vllm_cannot_serve_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """By every command that samples, and by `run` before its first sample."""
    model = find_model(str(build("llava_onevision", tmp_path / "model")))
    policy = matrix.moved_policy(model, tmp_path / "policy")
    pool = tmp_path / "asked"
    matrix.requests(tmp_path)
    out = tmp_path / "out"
    for words in (
        ["propose", "--images", pool, "--policy", policy, "--out", out / "questions.parquet"],
        ["run", "--images", pool, "--model", model.path, "--iterations", "1", "--out", out],
    ):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 4 and "serves no adapters" in done.output, done.output
        assert not list(out.rglob("*.parquet"))


def test_what_cannot_be_learned_from_is_refused_before_it_is_loaded(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ireasoner(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    fake = ("--sampler", "fake")
    assert ireasoner("propose", "--images", "pool", "--model", "model", "--groups", "2", *fake).exit_code == 0
    assert ireasoner("rollout", "questions.parquet", *fake).exit_code == 0
    assert ireasoner("score", "rollouts.parquet").exit_code == 0
    monkeypatch.setattr(support, "learning", lambda model: "its weights are quantised")
    monkeypatch.setattr("stages.learning.model.load_base", lambda model: pytest.fail("it is loaded"))
    hidden = ("score", "rollouts.parquet", "--embedding", "hidden", "--out", "hidden.parquet")
    run = ("run", "--images", "pool", "--model", "model", "--iterations", "1", "--out", "run")
    for words in (("update", "scored.parquet"), hidden, run):
        done = ireasoner(*words)
        assert (done.exit_code, done.output) == (4, "error: model cannot be learned from: its weights are quantised\n")
    assert not list(workdir.glob("run/**/*.parquet")) and not Path("hidden.parquet").exists()
