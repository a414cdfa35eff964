"""A shard or a policy made again from its own lineage, and compared with what is there."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stages import shards
from stages.contract import SCHEMAS, Metadata
from stages.errors import DataError, UsageError
from stages.sampling import Pixels
from stages.sampling.rows import SamplingSettings

SAME_LOGPROB = 1e-4


@dataclass(frozen=True)
class Lineage:
    """An output, what it says of itself, and where its inputs and its policy were found."""

    output: Path
    metadata: Metadata
    inputs: tuple[Path, ...]
    policy: Path | None


def replay(lineage: Lineage, scratch: Path) -> str:
    """Makes the output again in the folder `scratch`: "same bytes", or "same rows" in the contract's sense.

    Raises DataError, naming the first difference, when it comes out otherwise, UsageError when it cannot be made
    again; and what the stage raises.
    """
    output = lineage.output
    if not lineage.inputs or len(lineage.inputs) != len(lineage.metadata.inputs):
        raise UsageError(f"{output}: cannot be made again, its inputs are not all here; name their folder, too")
    again = scratch / output.name
    names = [file.name for file in output.iterdir()] if output.is_dir() else []
    parts = [shards.Part(*map(int, match.groups())) for match in map(shards.PART.fullmatch, names) if match]
    if not parts:
        _make(lineage, again, None, scratch)
    for part in parts:
        _make(lineage, again, part, scratch)
    if _bytes(again) == _bytes(output):
        return "same bytes"
    if lineage.metadata.stage == "update":
        different = next(name for name, data in _bytes(output).items() if _bytes(again).get(name) != data)
        raise DataError(f"{output}: made again, {different} comes out different")
    for difference in _differences(output, again, lineage.metadata.stage):
        raise DataError(f"{output}: made again, {difference}")
    return "same rows"


def _make(lineage: Lineage, out: Path, part: shards.Part | None, scratch: Path) -> None:
    metadata, inputs, start = lineage.metadata, list(lineage.inputs), lineage.policy
    params = metadata.params
    if metadata.stage == "score":
        from stages.score import ScoreParams, score

        score(inputs, ScoreParams(**_own(params, ScoreParams)), out, metadata.model.name, policy=start)
    elif metadata.stage == "update":
        from stages.update import UpdateParams, update

        update(inputs, UpdateParams(**_own(params, UpdateParams)), start, out, metadata.model.name)
    elif metadata.stage == "propose":
        from stages.propose import propose

        propose(
            inputs[0] if inputs[0].is_dir() or len(inputs) == 1 else inputs[0].parent,
            _settings(params, scratch),
            params["groups"], metadata.seed, params["embed_images"], start, out,
            metadata.model.name, params["limit"], part,
        )  # fmt: skip
    elif metadata.stage == "rollout":
        from stages.rollout import rollout

        rollout(
            inputs, _settings(params, scratch), params["samples"], start, out,
            metadata.model.name, params["limit"], part,
        )  # fmt: skip
    else:
        from stages.evaluate import evaluate

        tasks = params.get("tasks", [])
        if len(tasks) > 1:
            raise UsageError(f"{lineage.output}: holds {len(tasks)} tasks; only an evaluation of one can be made again")
        evaluate(
            inputs, _settings(params, scratch), params["samples"], metadata.seed, start, out,
            metadata.model.name, params["limit"], part, names=tasks, reasoning=params.get("reasoning", True),
        )  # fmt: skip


def _own(params: dict[str, Any], kind: Any) -> dict[str, Any]:
    return {field.name: params[field.name] for field in fields(kind) if field.name in params}


def _settings(params: dict[str, Any], scratch: Path) -> SamplingSettings:
    prompt = scratch / "prompt.txt"
    prompt.write_text(params["prompt"], encoding="utf-8")
    return SamplingSettings(
        max_tokens=params["max_tokens"],
        temperature=params["temperature"],
        top_p=params["top_p"],
        prompt=prompt,
        sampler=params["sampler"],
        pixels=Pixels(params["min_pixels"], params["max_pixels"]),
    )


# --------------------------------------------------------------------------------------------- comparing


def _bytes(output: Path) -> dict[str, bytes]:
    files = sorted(output.rglob("*")) if output.is_dir() else [output]
    names = [str(file.relative_to(output)) if output.is_dir() else "" for file in files]
    return {name: file.read_bytes() for name, file in zip(names, files, strict=True) if file.is_file()}


def _differences(output: Path, again: Path, stage: str) -> Iterator[str]:
    schema = SCHEMAS[stage]
    one, other = (iter(shards.Rows([path], schema)) for path in (output, again))
    for place, row in enumerate(one):
        new = next(other, None)
        if new is None:
            yield f"it has only {place} rows"
            return
        for name in schema.names:
            if not _same(name, row[name], new[name]):
                yield f"row {place} has another {name}"
    if next(other, None) is not None:
        yield "it has more rows"


def _same(name: str, old: Any, new: Any) -> bool:
    if name == "logprobs" and old is not None and new is not None:
        return len(old) == len(new) and all(
            math.isclose(before, after, abs_tol=SAME_LOGPROB) for before, after in zip(old, new, strict=True)
        )
    return old == new
