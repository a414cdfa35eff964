"""The three samplers. vLLM is the real engine, on the CPU."""

import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contract import PROPOSER, SOLVER
from stages.errors import EngineError, UsageError
from stages.learning.model import PolicyModel
from stages.models.finding import Model, find_model
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Decoding, Pixels
from stages.sampling import Refused, Request, Sample, Sampler, Wanted, open_sampler, resolve_sampler
from stages.sampling.vllm import VllmSampler
from tests.conftest import build_tiny_model, needs_vllm
from tests.plain import Example, PlainLoop, stock_model
from tests.test_learning import picture

REAL = ["vllm", "transformers"]
COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that likes placeholder tokens: nothing but a mask keeps it from sampling them."""
    from safetensors.torch import load_file, save_file

    folder = build_tiny_model(tmp_path_factory.mktemp("sampling") / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][list(find_model(str(folder)).forbidden_tokens)] *= 8
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return find_model(str(folder))


@pytest.fixture(scope="module")
def adapter(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Solver adapter that has moved, as a policy directory holds it."""
    policy = PolicyModel(model, seed=0)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters(SOLVER).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("policy")
    policy.save_adapter(SOLVER, folder / "solver")
    policy.save_adapter(PROPOSER, folder / "proposer")
    return folder / "solver"


@pytest.fixture(scope="module", params=[pytest.param("vllm", marks=needs_vllm), "transformers"])
def sampler(request: pytest.FixtureRequest, model: Model, adapter: Path) -> Iterator[Sampler]:
    with closing(open_sampler(Wanted(request.param, model, adapter))) as sampler:
        yield sampler


def requests(count: int = 12) -> list[Request]:
    pictures = [(picture(colour, (64, 48 + 28 * place)),) for place, colour in enumerate(COLOURS)]
    return [Request(pictures[place // 4 % 3], f"Question {place // 4}?", 1000 + place) for place in range(count)]


def sampled(sampler: Sampler, asked: Iterable[Request], decoding: Decoding) -> list[Sample]:
    """One for each request, none of which is refused."""
    samples = list(sampler.sample(asked, decoding))
    assert not any(isinstance(sample, Refused) for sample in samples)
    return [sample for sample in samples if isinstance(sample, Sample)]


DECODING = Decoding(temperature=1.0, top_p=1.0, max_tokens=12)
GREEDY = Decoding(temperature=0.0, max_tokens=12)


def test_bounds_on_pixels_go_with_the_request(sampler: Sampler, model: Model, adapter: Path) -> None:
    """One engine of vLLM's has the prompts and log-probabilities of one opened for the bounds alone."""
    if not isinstance(sampler, VllmSampler):
        pytest.skip("is opened for its bounds")
    asked = [Request((picture("red", (300, 200)),), "Which colour?", 1), Request((), "Which number?", 2)]
    found: dict[int, list[Sample]] = {}
    try:
        for most in (56 * 56, 112 * 112, 56 * 56):
            pixels = Pixels(max_pixels=most)
            sampler.use(adapter, pixels)
            samples, lengths = with_lengths(sampler, asked)
            prompts = PromptBuilder(model, pixels)
            assert lengths == [prompts.inputs(each.images, each.prompt)["input_ids"].shape[1] for each in asked]
            with closing(open_sampler(Wanted("transformers", model, adapter, pixels))) as alone:
                for one, other in zip(samples, sampled(alone, asked, GREEDY), strict=True):
                    assert one.token_ids == other.token_ids
                    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert found.setdefault(most, samples) == samples
    finally:
        sampler.use(adapter, Pixels())
    assert found[56 * 56][0].logprobs != found[112 * 112][0].logprobs
    assert found[56 * 56][1] == found[112 * 112][1]


def with_lengths(sampler: VllmSampler, asked: list[Request]) -> tuple[list[Sample], list[int]]:
    """Greedy samples, and how many tokens the engine's own prompts had."""
    lengths: dict[int, int] = {}
    step = sampler._step

    def noted() -> list[Any]:
        outputs = step()
        lengths.update({int(output.request_id): len(output.prompt_token_ids) for output in outputs})
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_step", noted)
        samples = sampled(sampler, asked, GREEDY)
    return samples, [lengths[place] for place in range(len(asked))]


def test_logprobs_are_those_of_the_learner(sampler: Sampler, model: Model, adapter: Path) -> None:
    samples = sampled(sampler, requests(), DECODING)
    assert len({tuple(sample.token_ids) for sample in samples}) == 12  # every trajectory has its own noise
    policy = PolicyModel(model, seed=1)
    with torch.no_grad():
        for name, tensor in policy.read_adapter(SOLVER, adapter).items():
            policy.parameters(SOLVER)[name].copy_(tensor)
    plain = PlainLoop(model, stock_model(model, adapter))
    for request, sample in zip(requests(), samples, strict=True):
        tokens = torch.tensor(sample.token_ids)
        example = Example(request.images[0], request.prompt, [sample.token_ids], [sample.logprobs], [0.0])
        prompt = policy.process((example.image,), example.prompt, example.pixels)
        with torch.no_grad():
            _, prefix = policy.prompts([prompt], SOLVER)
            logits = policy.head.logits(policy.states([prompt], prefix, [[tokens]], SOLVER))
            [peft] = plain.group_logprobs(example)
        for logprobs in (torch.log_softmax(logits, -1), peft):
            of_sampled = logprobs.gather(1, tokens[:, None])[:, 0]
            assert sample.logprobs == pytest.approx(of_sampled.tolist(), abs=1e-4)


def test_placeholders_are_never_sampled_and_text_is_what_the_tokens_say(sampler: Sampler, model: Model) -> None:
    forbidden, ends = set(model.forbidden_tokens), set(model.end_of_turn)
    assert len(forbidden) == 5
    for sample in sampled(sampler, requests(), DECODING):
        assert not forbidden & set(sample.token_ids)
        assert len(sample.token_ids) == len(sample.logprobs) <= 12
        assert sample.text == model.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        assert sample.finish_reason == ("stop" if sample.token_ids[-1] in ends else "length")
        assert not ends & set(sample.token_ids[:-1])


def test_a_sample_depends_on_its_own_request_alone(sampler: Sampler) -> None:
    together = [sample.token_ids for sample in sampled(sampler, requests(), DECODING)]
    again = [sample.token_ids for sample in sampled(sampler, requests(), DECODING)]
    apart = [sample.token_ids for request in requests() for sample in sampled(sampler, [request], DECODING)]
    assert together == again == apart


def test_logprobs_are_of_the_distribution_sampled_from(sampler: Sampler) -> None:
    greedy = sampled(sampler, requests(4), Decoding(temperature=0.0, max_tokens=6))
    assert len({tuple(sample.token_ids) for sample in greedy}) == 1
    narrow = sampled(sampler, requests(4), Decoding(temperature=1.0, top_p=0.001, max_tokens=6))
    assert [sample.token_ids for sample in narrow] == [sample.token_ids for sample in greedy]
    assert all(sample.logprobs == pytest.approx([0.0] * 6, abs=1e-5) for sample in narrow)
    cold = sampled(sampler, requests(4), Decoding(temperature=0.3, max_tokens=6))
    warm = sampled(sampler, requests(4), Decoding(temperature=2.0, max_tokens=6))
    assert _mean(cold) > _mean(warm) + 0.5


def _mean(samples: list[Sample]) -> float:
    values = [value for sample in samples for value in sample.logprobs]
    return sum(values) / len(values)


def test_the_image_matters(sampler: Sampler) -> None:
    one, other = (
        sampled(sampler, [Request((picture(colour),), "Which?", 5)], Decoding(max_tokens=4))[0]
        for colour in ("red", "blue")
    )
    assert one.logprobs[0] != pytest.approx(other.logprobs[0], abs=1e-6)


def test_no_requests_no_samples(sampler: Sampler) -> None:
    assert sampled(sampler, [], DECODING) == []


def test_requests_are_drawn_as_they_are_needed(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.sampling.vllm.IN_FLIGHT", 2)
    drawn = 0

    def source() -> Iterator[Request]:
        nonlocal drawn
        for request in requests():
            drawn += 1
            yield request

    samples = sampler.sample(source(), DECODING)
    next(samples)
    assert drawn < 12
    assert len(list(samples)) == 11


def test_the_fake_is_deterministic_and_well_formed(model: Model) -> None:
    fake = open_sampler(Wanted("fake", model))
    samples = sampled(fake, requests(), Decoding(max_tokens=64))
    assert samples == sampled(fake, requests(), Decoding(max_tokens=64))
    for sample in samples:
        assert len(sample.token_ids) == len(sample.logprobs) <= 64
        assert all(math.isfinite(value) and value <= 0 for value in sample.logprobs)
        assert (sample.finish_reason == "stop") == (sample.token_ids[-1] in model.end_of_turn)


def test_a_model_that_cannot_be_loaded_is_an_engine_failure(tmp_path: Path, model_dir: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model_dir.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EngineError, match="broken"):
        open_sampler(Wanted("transformers", find_model(str(broken))))


def test_asking_for_vllm_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    model = find_model(str(model_dir))
    assert resolve_sampler(None, model, None) == "vllm"
    monkeypatch.setattr("stages.sampling.opening.installed_vllm", lambda: None)
    monkeypatch.setattr("stages.models.support.installed_vllm", lambda: None)
    assert resolve_sampler(None, model, None) == "transformers"
    with pytest.raises(UsageError, match="not installed"):
        resolve_sampler("vllm", model, None)


def test_the_fake_knows_what_asks_for_a_question(workdir: Path) -> None:
    """By the tag, or as the model folder's own prompt, which need not name it."""
    prompts = workdir / "asks-shortly/prompts"
    shutil.copytree("model", prompts.parent)
    (prompts / "proposer.txt").write_text("Ask about it.")
    fake = open_sampler(Wanted("fake", find_model(str(prompts.parent))))
    for prompt, asks in (("Ask about it.", True), ("Write a <question>.", True), ("How many? Think.", False)):
        requests = [Request((), prompt, seed) for seed in range(20)]
        texts = [sample.text for sample in sampled(fake, requests, Decoding())]
        assert any("<question>" in text for text in texts) == asks
        assert any("<answer>" in text for text in texts) != asks
