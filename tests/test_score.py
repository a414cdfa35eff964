"""`score` against an independent computation, with transformers' tokenizer and the model's own embedding layer."""

import math
from pathlib import Path

import numpy as np
import pytest

from stages.embedding import Step
from stages.embedding.static import StaticEmbedder
from stages.errors import DataError
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.score import ScoreParams
from stages.score import score
from stages.scoring.steps import _spans
from tests import chain, oracle
from tests.conftest import build_tiny_model

COMPLETIONS = [
    [
        chain.solution("11", "The red bar is 4.", "The blue bar is 7.", "4 + 7 = 11."),
        chain.solution("11.0", "The blue bar is 7.", "The red bar is 4."),
        chain.solution("12", "The red bar is 5.", "The blue bar is 7."),
        chain.solution("(11)", "The red bar is 4.", "a", "b", "c", "d", "e", "f", "g", "h", "i"),
        "<think>\nStep 1: nothing\n</think>",
    ],
    [chain.solution("3"), chain.solution("-3"), chain.solution("4"), chain.solution("5"), "no tags at all"],
    ["", "<answer></answer>", "<think><answer>3</answer></think>", "3", "<answer>3"],
    [chain.solution("7", "word " * 90), chain.solution("7", "word " * 90)],
    [chain.solution("1", "the same")] * 5,
]
STEPS = [
    ["The red bar is 4.|The blue bar is 7.|4 + 7 = 11.", "The blue bar is 7.|The red bar is 4.",
     "The red bar is 5.|The blue bar is 7.", "The red bar is 4.|a|b|c|d|e|f|g", "nothing"],
    ["a|b"] * 4 + ["no tags at all"],
    ["", "", "<answer>3</answer>", "3", "<answer>3"],
    [("word " * 90).strip()] * 2,
    ["the same"] * 5,
]  # fmt: skip
KEYS: list[list[str | None]] = [
    ["11", "11", "12", "11", None],
    ["3", "-3", "4", "5", None],
    [None] * 5,
    ["7", "7"],
    ["1"] * 5,
]


def embed(model_dir: Path, text: str) -> np.ndarray:
    import torch

    from stages.models.loading import prepare_transformers

    prepare_transformers()
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    ids = tokenizer(text, add_special_tokens=False).input_ids[:64]
    return model.get_input_embeddings().weight.detach()[ids].double().mean(0).numpy()


@pytest.fixture
def rollouts(workdir: Path) -> Path:
    groups = [chain.group(place, "pool/0.png", texts) for place, texts in enumerate(COMPLETIONS)]
    return chain.write_shard(workdir / "rollouts.parquet", groups, step=40)


@pytest.mark.parametrize(
    "flags",
    [
        oracle.Flags(),
        oracle.Flags(total_steps=60),
        oracle.Flags(total_steps=10),
        oracle.Flags(no_warmup=True),
        oracle.Flags(no_warmup=True, no_decay=True),
        oracle.Flags(no_warmup=True, no_density=True),
        oracle.Flags(reward="answer", no_warmup=True),
        oracle.Flags(reward="step"),
    ],
)
def test_scores_equal_an_independent_computation(workdir: Path, rollouts: Path, flags: oracle.Flags) -> None:
    params = ScoreParams(
        reward=flags.reward,  # type: ignore[arg-type]
        no_decay=flags.no_decay,
        no_density=flags.no_density,
        no_warmup=flags.no_warmup,
        total_steps=flags.total_steps,
    )
    scored = chain.rows(score([rollouts], params).path)
    cache: dict[str, np.ndarray] = {}
    for place, texts in enumerate(COMPLETIONS):
        t = 40 + place + 1
        steps = [[step for step in text.split("|") if step] for text in STEPS[place]]
        members = [
            oracle.Rollout(
                key,
                len(text.split("<answer>" if key is not None else "\0")[0].split()),
                [cache.setdefault(s, embed(workdir / "model", s)) if s not in cache else cache[s] for s in own],
            )
            for key, text, own in zip(KEYS[place], texts, steps, strict=True)
        ]
        expected, entropy, proposer = oracle.score_group(members, t, flags)
        group = [row for row in scored if row["group_index"] == place]
        assert [row["answer_key"] for row in group[1:]] == KEYS[place]
        assert group[0]["reward"] == pytest.approx(proposer)
        for row, want, own in zip(group[1:], expected, steps, strict=True):
            assert row["step"] == t
            assert row["steps"] == own
            assert row["step_weight"] == pytest.approx(oracle.lam(t, flags))
            assert row["entropy"] == pytest.approx(entropy)
            for column in ("r_answer", "r_step", "reward", "dominant", "density"):
                assert row[column] == pytest.approx(getattr(want, column), abs=1e-6), column
            assert (row["step_similarity"] is None) == (want.similarity is None)
            if want.similarity is not None:
                assert [s is None for s in row["step_similarity"]] == [s is None for s in want.similarity]
                got = [s for s in row["step_similarity"] if s is not None]
                assert got == pytest.approx([s for s in want.similarity if s is not None], abs=1e-6)


def test_columns_of_the_solver_are_null_on_the_proposers_row(rollouts: Path) -> None:
    for row in chain.rows(score([rollouts], ScoreParams()).path):
        if row["role"] == "proposer":
            filled = {name for name in ("step", "entropy", "reward") if row[name] is not None}
            assert filled == {"step", "entropy", "reward"}
            solver = ("answer", "answer_key", "steps", "answer_prob", "dominant", "density", "step_similarity",
                      "r_answer", "r_step", "step_weight")  # fmt: skip
            assert all(row[name] is None for name in solver)


def test_groups_without_rollouts(workdir: Path) -> None:
    no_question = chain.group(0, "pool/0.png", [], question=None, proposal="I see bars.")
    unreadable = [{**chain.group(1, "pool/1.png", [])[0], "question": None, "completion": None, "reject_reason": "…"}]
    from_elsewhere = chain.group(2, "pool/2.png", [chain.solution(1)] * 2)
    from_elsewhere[0] |= {"token_ids": None, "logprobs": None}
    path = chain.write_shard(workdir / "rollouts.parquet", [no_question, unreadable, from_elsewhere])
    scored = chain.rows(score([path], ScoreParams()).path)
    assert [row["reward"] for row in scored[:2]] == [0.0, None]
    assert [row["entropy"] for row in scored[:2]] == [None, None]
    assert scored[2]["reward"] == pytest.approx(math.exp(-(0.9**2) / (2 * 0.35**2)))


def test_minus_three_is_not_three(rollouts: Path) -> None:
    group = [row for row in chain.rows(score([rollouts], ScoreParams()).path) if row["group_index"] == 1]
    assert [row["answer_prob"] for row in group[1:]] == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.0])


def test_blocks_do_not_change_the_scores(rollouts: Path, monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    params = ScoreParams(no_warmup=True)
    whole = chain.rows(score([rollouts], params, Call(out=Path("whole.parquet"))).path)
    monkeypatch.setattr("stages.score.GROUPS_PER_BLOCK", 2)
    assert chain.rows(score([rollouts], params, Call(out=Path("blocks.parquet"))).path) == whole


def test_what_came_in_goes_out(rollouts: Path) -> None:
    before = chain.rows(rollouts)
    scored = chain.rows(score([rollouts], ScoreParams()).path)
    assert [{name: row[name] for name in before[0]} for row in scored] == before


def test_metadata_says_how_it_was_made(rollouts: Path, workdir: Path) -> None:
    meta = chain.metadata(score([rollouts], ScoreParams(no_decay=True)).path)
    assert meta["format"] == 2 and meta["stage"] == "score" and meta["policy"] == {"step": 40, "sha256": None}
    assert meta["params"]["no_decay"] is True and meta["params"]["max_steps"] == 8
    assert meta["inputs"][0]["name"] == "rollouts.parquet" and len(meta["inputs"][0]["sha256"]) == 64
    assert meta["model"]["name"] == "model" and len(meta["model"]["sha256"]) == 64
    assert str(workdir) not in str(meta)


def test_the_same_command_gives_the_same_bytes_and_is_not_repeated(rollouts: Path) -> None:
    first = score([rollouts], ScoreParams())
    data = first.path.read_bytes()
    assert score([rollouts], ScoreParams()).reused
    assert not score([rollouts], ScoreParams(), Call(force=True)).reused
    assert first.path.read_bytes() == data


def test_a_model_other_than_the_recorded_one_is_refused(workdir: Path, other_model_dir: Path) -> None:
    model = {"name": "model", "sha256": find_model("model").ref.sha256}
    path = chain.write_shard(workdir / "r.parquet", [chain.group(0, "pool/0.png", [])], model=model)
    with pytest.raises(DataError, match="not the model"):
        score([path], ScoreParams(), Call(model=str(other_model_dir)))


def test_special_token_text_in_a_step_is_text(model_dir: Path) -> None:
    embedder = StaticEmbedder(find_model(str(model_dir)))
    plain, special = embedder.embed([Step(0, 0, "ab"), Step(0, 0, "<|im_end|>")])
    assert np.linalg.norm(plain) > 0 and np.linalg.norm(special) > 0
    table = find_model(str(model_dir)).embedding_table()
    end = table.rows([find_model(str(model_dir)).end_of_turn[0]])[0]
    assert abs(float(special @ end / np.linalg.norm(end) / np.linalg.norm(special))) < 0.99


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_embeddings_are_read_in_every_type(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = build_tiny_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    cast = {key: value.to(getattr(torch, dtype)) for key, value in weights.items()}
    save_file(cast, folder / "model.safetensors", metadata={"format": "pt"})
    rows = find_model(str(folder)).embedding_table().rows([5, 300, 5])
    assert np.array_equal(rows, cast[name].float()[[5, 300, 5]].numpy())


def test_limit_takes_the_first_groups(rollouts: Path) -> None:
    scored = chain.rows(score([rollouts], ScoreParams(), Call(limit=2)).path)
    assert {row["group_index"] for row in scored} == {0, 1}


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_steps_embedded_a_few_at_a_time_score_the_same(
    rollouts: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score([rollouts], ScoreParams(no_warmup=True), Call(out=Path("whole.parquet"))).path
    monkeypatch.setattr("stages.scoring.steps.STEPS_AT_ONCE", at_once)
    parts = score([rollouts], ScoreParams(no_warmup=True), Call(out=Path("parts.parquet"))).path
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("sizes", "at_once"), [([2, 2, 3], 4), ([5], 2), ([2], 9), ([], 4), ([3, 1, 1, 1], 3)])
def test_spans_cover_every_group_whole(sizes: list[int], at_once: int) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    spans = list(_spans(group, at_once))
    assert [step for span in spans for step in range(len(group))[span]] == list(range(len(group)))
    numbers = [set(group[span].tolist()) for span in spans]
    assert all(not one & other for index, one in enumerate(numbers) for other in numbers[:index])
    assert all(len(group[span]) <= at_once or len(own) == 1 for span, own in zip(spans, numbers, strict=True))
