"""Shards made by hand, and readers that share no code with the stages: what another tool would do."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contract import SCORED, TRAJECTORY
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.sampling import Decoding, Sampling


def sampling(sampler: str, **overrides: Any) -> Sampling:
    """Settings of a sampler, how tokens are drawn among the rest."""
    drawn = {name: overrides.pop(name) for name in ("temperature", "top_p", "max_tokens") if name in overrides}
    return Sampling(decoding=Decoding(**drawn), sampler=sampler, **overrides)  # type: ignore[arg-type]


def fake(**overrides: Any) -> Sampling:
    """Settings of the fake sampler."""
    return sampling("fake", **{"max_tokens": 64, **overrides})


def asked(params: type, **options: Any) -> tuple[Any, Call]:
    """The options that are a stage's own as its parameters, and the others as what every stage is asked."""
    own = {field.name for field in fields(params)}
    mine = {name: value for name, value in options.items() if name in own}
    return params(**mine), Call(**{name: value for name, value in options.items() if name not in own})


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def rewritten(path: Path, out: str, more: pa.Schema, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A scored shard with other rows, and `more` columns, null unless `change` fills them."""
    kept = pq.read_schema(path).metadata[b"ireasoner"]
    changed = [change({**dict.fromkeys(more.names), **row}) for row in rows(path)]
    table = pa.Table.from_pylist(changed, pa.schema([*SCORED, *more]))
    pq.write_table(table.replace_schema_metadata({"ireasoner": kept}), out)
    return Path(out)


def metadata(path: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(path).metadata[b"ireasoner"])


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def tokens(model: str, text: str) -> list[int]:
    """`text` as a sampler would have produced it: its tokens, then the end of turn."""
    checkpoint = find_model(model)
    return [*checkpoint.tokenizer.encode(text, add_special_tokens=False).ids, checkpoint.end_of_turn[0]]


def group(
    index: int,
    image: str,
    completions: list[str],
    model: str = "model",
    question: str | None = "How many?",
    proposal: str = "<question>How many?</question>",
) -> list[dict[str, Any]]:
    """The rows of a rollouts group with the given Solver completions."""
    digest = hashlib.sha256(Path(image).read_bytes()).hexdigest()
    shared = {
        "group_id": f"{index:016x}",
        "group_index": index,
        "images": [{"bytes": None, "path": image}],
        "images_sha256": [digest],
        "question": question,
    }

    def row(role: str, sample: int, prompt: str, text: str) -> dict[str, Any]:
        token_ids = tokens(model, text)
        return {
            **shared,
            "role": role,
            "pass": "answer" if role == "solver" else None,
            "sample_index": sample,
            "prompt": prompt,
            "completion": text,
            "token_ids": token_ids,
            "logprobs": [-1.0] * len(token_ids),
            "finish_reason": "stop",
            "seed": sample,
            "reject_reason": None,
        }

    return [
        row("proposer", 0, "Ask.", proposal),
        *(row("solver", place, f"Answer the question: {question}", text) for place, text in enumerate(completions)),
    ]


def write_shard(
    path: Path,
    groups: list[list[dict[str, Any]]],
    stage: str = "rollout",
    step: int = 0,
    **more: Any,
) -> Path:
    """A shard as another tool writes it: the columns, and only the metadata that the contract asks for."""
    schema = SCORED if stage == "score" else TRAJECTORY
    content = {"format": 2, "stage": stage, "model": {"name": "model"}, "policy": {"step": step}, **more}
    table = pa.Table.from_pylist([row for rows_ in groups for row in rows_], schema)
    pq.write_table(table.replace_schema_metadata({"ireasoner": json.dumps(content)}), path)
    return path


def solution(answer: object, *steps: str) -> str:
    lines = "\n".join(f"Step {place}: {step}" for place, step in enumerate(steps or ("a", "b"), 1))
    return f"<think>\n{lines}\n</think>\n<answer>{answer}</answer>"
