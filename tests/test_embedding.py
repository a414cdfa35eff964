"""`score --embedding hidden`: hidden states held to plain transformers, and steps found again among the tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages import images
from stages.contract import TRAJECTORY, Metadata, PolicyRef
from stages.embedding import Step, StepEmbedder
from stages.embedding.hidden import HiddenEmbedder, centred, tokens_of
from stages.embedding.static import StaticEmbedder
from stages.errors import DataError, EngineError, UsageError
from stages.learning.learner import UpdateParams
from stages.learning.packing import TOKENS_PER_PASS
from stages.learning.rereading import Reader
from stages.models.finding import Model, find_model
from stages.models.spans import token_spans
from stages.parameters import Call
from stages.parameters.score import ScoreParams
from stages.parsing import parse_completion
from stages.policy import open_policy
from stages.score import score
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.plain import Example, PlainLoop, stock_model

HIDDEN = ScoreParams(embedding="hidden", no_warmup=True)
TEXTS = (
    chain.solution(11, "The red bar is 4.", "The blue bar is 7.", "4 + 7 = 11."),
    chain.solution(11, "The red bar is 4.", "The blue bar is 6."),
    chain.solution(11, "The blue bar is 7.", "The red bar is 4.", "7 + 4 = 11."),
    chain.solution(12, "The red bar is 5."),
)


@pytest.fixture
def model(workdir: Path) -> Model:
    return find_model("model")


def write_rollouts(path: str, policy: Path | None = None, texts: Sequence[str] = TEXTS, groups: int = 3) -> Path:
    """Rollouts that record `policy` as theirs."""
    start = open_policy(policy).ref
    rows = [chain.group(place, f"pool/{place}.png", list(texts)) for place in range(groups)]
    Path(path).parent.mkdir(exist_ok=True)
    return chain.write_shard(Path(path), rows, policy={"step": start.step, "sha256": start.sha256})


def recorded(**passes: dict[str, Any]) -> Metadata:
    """What rollouts of these passes say of themselves."""
    return Metadata(
        "rollout", {"samples": 5, "pass": "answer", "passes": passes}, 0, (), find_model("model").ref, PolicyRef()
    )


@pytest.fixture
def policy(workdir: Path) -> Path:
    """A policy at step 3 that has moved well away from the base model."""
    scored = score([write_rollouts("it0001/rollouts.parquet")], ScoreParams(no_warmup=True))
    return update([scored.path], UpdateParams(lr=0.05)).path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# ---------------------------------------------------------------------------------------- embeddings


def embedded(embedder: StepEmbedder, texts: Sequence[str]) -> tuple[list[Step], list[dict[str, Any]], np.ndarray]:
    """The steps of a group with these completions, its rows, and the embeddings."""
    rows = chain.group(0, "pool/0.png", list(texts))
    steps = [
        Step(place, start, step)
        for place, text in enumerate(texts, 1)
        for start, step in zip(parse_completion(text).starts, parse_completion(text).steps, strict=True)
    ]
    return steps, rows, embedder.embed(steps, pa.Table.from_pylist(rows, TRAJECTORY))


@pytest.mark.parametrize("trained", [False, True])
def test_hidden_states_are_those_of_transformers(model: Model, policy: Path, trained: bool) -> None:
    """Those of the middle layer, averaged over a step's own tokens, with each sequence and its picture run whole;
    unit vectors less the mean of the group's."""
    start = open_policy(policy if trained else None)
    steps, rows, embeddings = embedded(HiddenEmbedder(Reader(model, start, recorded())), TEXTS)
    stock = stock_model(model, start.folder / "solver" if start.folder else None)
    example = Example(images.load_all(rows[1])[0], rows[1]["prompt"], [], [], [])
    loop = PlainLoop(model, stock)
    means = []
    for step in steps:
        ids = rows[step.row]["token_ids"]
        with torch.no_grad():
            states = stock(**loop.inputs(example, ids), output_hidden_states=True).hidden_states
        lengths = [len(model.tokenizer.decode(ids[:place])) for place in range(len(ids) + 1)]
        first = max(place for place, length in enumerate(lengths) if length <= step.start)
        last = next(place for place, length in enumerate(lengths) if length >= step.start + len(step.text))
        middle = states[(len(states) - 1) // 2][0, -len(ids) :]
        means.append(middle[first:last].mean(0))
    wanted = torch.nn.functional.normalize(torch.stack(means), dim=1)
    assert np.allclose(embeddings, wanted - wanted.mean(0), atol=1e-5)
    assert wanted.std(0).max() > 1e-3


def test_the_order_of_the_words_matters_to_hidden_states_alone(model: Model) -> None:
    texts = [chain.solution(1, step) for step in ("The red blue bar.", "The blue red bar.")]

    def cosine(embedder: StepEmbedder) -> float:
        _, _, (one, other) = embedded(embedder, texts)
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    assert cosine(StaticEmbedder(model)) == pytest.approx(1.0, abs=1e-6)
    assert cosine(HiddenEmbedder(Reader(model, open_policy(None), recorded()))) < 0.999


def test_what_comes_before_a_step_matters_to_hidden_states(model: Model) -> None:
    """The same words, after other steps and to another picture."""
    texts = [chain.solution(1, first, "The red bar is 4.") for first in ("The blue bar is 7.", "The blue bar is 6.")]
    embedder = HiddenEmbedder(Reader(model, open_policy(None), recorded()))
    steps, rows, embeddings = embedded(embedder, texts)
    one, other = (embedding for step, embedding in zip(steps, embeddings, strict=True) if "red" in step.text)
    assert np.abs(one - other).max() > 1e-3
    elsewhere = [row | {"images": [{"bytes": None, "path": "pool/1.png"}], "images_sha256": None} for row in rows]
    assert np.abs(embedder.embed(steps, pa.Table.from_pylist(elsewhere, TRAJECTORY)) - embeddings).max() > 1e-3


def test_a_pass_is_seen_in_the_bounds_that_it_was_sampled_in(model: Model) -> None:
    """A second look with fewer pixels, in a shard with the first."""
    text = chain.solution(1, "The red bar is 4.", "The blue bar is 7.")
    rows = chain.group(0, "pool/0.png", [text, text, text])
    rows[2]["pass"] = "small"
    steps = [
        Step(place, start, step)
        for place in (1, 2, 3)
        for start, step in zip(parse_completion(text).starts, parse_completion(text).steps, strict=True)
    ]
    bounds = recorded(small={"max_pixels": 28 * 28})
    block = pa.Table.from_pylist(rows, TRAJECTORY)
    whole, small, again = HiddenEmbedder(Reader(model, open_policy(None), bounds)).embed(steps, block).reshape(3, 2, -1)
    assert np.array_equal(whole, again) and np.abs(whole - small).max() > 1e-3


def test_centring_leaves_out_what_all_steps_share_and_nothing_that_they_agree_on() -> None:
    shared, own = np.full((5, 8), 10.0, np.float32), np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    steps = [Step(row, start, "") for row, start in ((1, 0), (1, 9), (2, 0), (2, 9), (3, 0))]
    embeddings = shared + own
    embeddings[4] = 0
    less = centred(steps, embeddings)
    assert np.abs(less[:4].sum(0)).max() < 1e-6 and not less[4].any()
    unit = embeddings[:4] / np.linalg.norm(embeddings[:4], axis=1, keepdims=True)
    assert np.allclose(less[0] - less[1], unit[0] - unit[1], atol=1e-6)
    assert np.allclose(centred([steps[0], steps[2]], embeddings[:2]), unit[:2], atol=1e-6)


@pytest.mark.parametrize("steps", [("a",), ("The red bar is 4.", "The blue bar is 7.")])
def test_rollouts_that_say_the_same_agree_entirely(workdir: Path, steps: tuple[str, ...]) -> None:
    rollouts = write_rollouts("rollouts.parquet", texts=[chain.solution(4, *steps)] * 3, groups=1)
    for row in chain.rows(score([rollouts], HIDDEN).path)[1:]:
        assert row["step_similarity"] == pytest.approx([1.0] * len(steps), abs=1e-5)


# -------------------------------------------------------------------------------- tokens and characters


def spans(model: Model, token_ids: list[int], completion: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    text = model.tokenizer.decode(token_ids, skip_special_tokens=True) if completion is None else completion
    row = {"group_id": "0", "role": "solver", "sample_index": 0, "completion": text, "token_ids": token_ids}
    return token_spans(model.tokenizer, row)


@given(token_ids=st.lists(st.integers(0, 399), min_size=1, max_size=40))
def test_whatever_tokens_were_sampled_their_spans_tile_the_completion(model_dir: Path, token_ids: list[int]) -> None:
    """Broken characters and special tokens included."""
    model = find_model(str(model_dir))
    text = model.tokenizer.decode(token_ids, skip_special_tokens=True)
    starts, ends = spans(model, token_ids)
    assert (starts <= ends).all()
    assert ends.max() == len(text) and starts[0] == 0
    covered = sorted({(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True) if start < end})
    assert [start for start, _ in covered[1:]] == [end for _, end in covered[:-1]]


def test_a_step_takes_the_tokens_that_it_shares_with_its_neighbours(model: Model) -> None:
    """ "é" is two tokens here, and the special token between belongs to nobody."""
    pieces = [model.tokenizer.encode(text).ids for text in ("Step", " 1", ":", "é", "<|im_start|>", " red", ".\n")]
    ids = [token for piece in pieces for token in piece]
    starts, ends = spans(model, ids)
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "Step 1:é red.\n"

    def inside(step: str) -> list[int]:
        return ids[tokens_of(Step(0, text.index(step), step), starts, ends)]

    assert inside("é red.") == ids[len(ids) - sum(map(len, pieces[3:])) :]
    assert len(pieces[3]) > 1 and inside("é") == pieces[3]
    assert inside("r") == pieces[5][:1]


def test_of_a_long_step_the_first_64_tokens_count(model: Model) -> None:
    ids = model.tokenizer.encode("4 " * 100).ids
    starts, ends = spans(model, ids)
    assert tokens_of(Step(0, 0, "4 " * 99 + "4"), starts, ends) == slice(0, 64)
    assert tokens_of(Step(0, 20, "4 4"), starts, ends).start > 0


@pytest.mark.parametrize(
    "completion", ["<answer>5</answer>", "<answer>", "", "<answer>4</answer> and more", "<answer>4</answer>\ufffd"]
)
def test_a_completion_that_is_not_what_its_tokens_say_is_refused(model: Model, completion: str) -> None:
    with pytest.raises(DataError, match="solver 0: its completion is not what its token_ids say"):
        spans(model, model.tokenizer.encode("<answer>4</answer>").ids, completion)


def test_a_completion_cut_off_within_a_character_is_taken_with_its_end_or_without(model: Model) -> None:
    cut = model.tokenizer.encode("4 é").ids[:-1]
    for completion in ("4 ", "4 \ufffd"):
        assert spans(model, cut, completion)[1][-1] == len(completion)


# ------------------------------------------------------------------------------------------- the stage


def test_hidden_scores_are_made_of_hidden_states(policy: Path) -> None:
    rollouts = write_rollouts("it0002/rollouts.parquet", policy)
    static = chain.rows(score([rollouts], ScoreParams(no_warmup=True), Call(out=Path("static.parquet"))).path)
    scored = score([rollouts], HIDDEN, Call(policy=policy))
    rows = chain.rows(scored.path)
    differ = {name for row, other in zip(rows, static, strict=True) for name in row if row[name] != other[name]}
    assert differ == {"step_similarity", "r_step", "reward"}
    reader = Reader(find_model("model"), open_policy(policy), recorded())
    steps, _, embeddings = embedded(HiddenEmbedder(reader), TEXTS[:3])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    second = [place for place in range(1, len(steps)) if [s.row for s in steps[:place]].count(steps[place].row) == 1]
    prototype = unit[second].mean(0)
    wanted = unit[second] @ prototype / np.linalg.norm(prototype)
    assert [row["step_similarity"][1] for row in rows[1:4]] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_the_scores_do_not_depend_on_how_they_were_made(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score([write_rollouts("whole/rollouts.parquet", policy)], HIDDEN, Call(policy=policy)).path
    start = open_policy(policy).ref
    groups = [chain.group(place, f"pool/{place}.png", list(TEXTS)) for place in range(3)]
    Path("parts").mkdir()
    for place, some in enumerate((groups[:1], groups[1:]), 1):
        part = Path(f"parts/part-{place}-of-2.parquet")
        chain.write_shard(part, some, policy={"step": start.step, "sha256": start.sha256})
    parts = score([Path("parts")], HIDDEN, Call(out=Path("parts.parquet"), policy=policy)).path
    assert chain.rows(parts) == chain.rows(whole)

    embed, seen = HiddenEmbedder.embed, 0

    def interrupted(*arguments: Any) -> np.ndarray:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt
        return embed(*arguments)

    monkeypatch.setattr(HiddenEmbedder, "embed", interrupted)
    again = Path("again.parquet")
    with pytest.raises(KeyboardInterrupt):
        score([Path("whole/rollouts.parquet")], HIDDEN, Call(out=again, policy=policy))
    score([Path("whole/rollouts.parquet")], HIDDEN, Call(out=again, policy=policy))
    assert seen == 4  # the two groups that were done were not done again
    assert again.read_bytes() == whole.read_bytes()


def test_the_policy_must_be_the_one_that_was_sampled_from(policy: Path) -> None:
    rollouts = write_rollouts("it0002/rollouts.parquet", policy)
    with pytest.raises(UsageError, match="made with a policy at step 3; name its folder with --policy"):
        score([rollouts], HIDDEN)
    other = update([Path("it0001/scored.parquet")], UpdateParams(lr=0.1), Call(out=Path("other"))).path
    for options in (("--policy", other), ("--policy", other, "--dry-run")):
        done = call("score", rollouts, "--embedding", "hidden", *options)
        assert done.exit_code == 3 and "not the policy that it0002/rollouts.parquet was made with" in done.stderr
    done = call("score", rollouts, "--embedding", "hidden", "--policy", policy, "--dry-run")
    assert done.exit_code == 0 and not Path("it0002/scored.parquet").exists(), done.output
    assert score([rollouts], ScoreParams()).summary["rollouts"] == 12  # static asks for no policy


def test_an_embedding_is_a_parameter(policy: Path) -> None:
    rollouts = write_rollouts("it0002/rollouts.parquet", policy)
    static = score([rollouts], ScoreParams(no_warmup=True)).path
    assert chain.metadata(static)["params"]["embedding"] == "static"
    with pytest.raises(UsageError, match=r'params\.embedding: "static" → "hidden"'):
        score([rollouts], HIDDEN, Call(policy=policy))
    scored = score([rollouts], HIDDEN, Call(force=True, policy=policy)).path
    assert chain.metadata(scored)["params"]["embedding"] == "hidden"
    assert score([rollouts], HIDDEN, Call(policy=policy)).reused
    assert [each.replayed for each in verify([scored], again=True)][-1] == "same bytes"


def test_pictures_that_have_changed_are_refused(policy: Path) -> None:
    rollouts = write_rollouts("it0002/rollouts.parquet", policy)
    Path("pool/1.png").write_bytes(Path("pool/2.png").read_bytes())
    with pytest.raises(DataError, match=r"pool/1.png: the image has changed"):
        score([rollouts], HIDDEN, Call(policy=policy))


def test_rows_without_tokens(workdir: Path) -> None:
    """Ours say why, and have nothing to do with the others; those of other tools are refused, where they matter."""
    bare = {"token_ids": None, "logprobs": None}
    group = chain.group(0, "pool/0.png", list(TEXTS))
    group[1] |= bare | {"reject_reason": "a log-probability is not finite"}
    rows = chain.rows(
        score([chain.write_shard(Path("ours.parquet"), [group])], HIDDEN, Call(out=Path("1.parquet"))).path
    )
    assert rows[1]["step_similarity"] == [0.0, 0.0, 0.0] and min(rows[2]["step_similarity"]) > 0
    group[1] |= {"reject_reason": None}
    chain.write_shard(Path("theirs.parquet"), [group])
    done = call("score", "theirs.parquet", "--embedding", "hidden")
    assert done.exit_code == 3 and "solver 0: has no token_ids" in done.stderr and "--embedding static" in done.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"completion": TEXTS[1]}, "not what its token_ids say"),
        ({"token_ids": [399_999]}, "cannot have been sampled"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(workdir: Path, change: dict[str, Any], named: str) -> None:
    group = chain.group(0, "pool/0.png", list(TEXTS))
    group[1] |= change
    with pytest.raises(DataError, match=named):
        score([chain.write_shard(Path("rollouts.parquet"), [group])], HIDDEN)


def test_states_that_are_no_numbers_are_refused(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HiddenEmbedder, "states", lambda self, rows, depth: [np.full((99, 64), np.nan) for _ in rows])
    with pytest.raises(EngineError, match="group 0000000000000000: its hidden states are not finite"):
        score([write_rollouts("rollouts.parquet")], HIDDEN)


@pytest.mark.parametrize("limit", [1, 40])
def test_completions_are_run_a_few_at_a_time(policy: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    rollouts = write_rollouts("it0002/rollouts.parquet", policy)
    whole = chain.rows(score([rollouts], HIDDEN, Call(policy=policy)).path)
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", limit)
    few = chain.rows(score([rollouts], HIDDEN, Call(out=Path("few.parquet"), policy=policy)).path)
    assert [row["r_step"] for row in few[1:]] == pytest.approx([row["r_step"] for row in whole[1:]], abs=1e-6)
