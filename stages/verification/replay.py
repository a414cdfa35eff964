"""A shard or a policy made again from its own lineage, and compared with what is there.

What a model computed comes out the same on the same device only, in the same dtype and, of an update, on as many
processes; what vLLM sampled on a GPU only with its batch-invariant kernels, without which a completion depends on what
else was in the batch and, with an adapter, on chance. Anything else is refused, before it takes hours.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stages import shards
from stages.contract import Metadata
from stages.errors import DataError, UsageError
from stages.parameters import Call, from_recorded
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.sampling import EngineOptions
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.result import Result

P = TypeVar("P", bound=Any)
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
    _check_device(lineage)
    again = scratch / output.name
    names = [file.name for file in output.iterdir()] if output.is_dir() else []
    parts = [shards.Part(*map(int, match.groups())) for match in map(shards.PART.fullmatch, names) if match]
    if not parts:
        _make(lineage, again, None, scratch)
    for part in parts:
        _make(lineage, again, part, scratch)
    made, left = _bytes(again), _bytes(output)
    if made == left:
        return "same bytes"
    if lineage.metadata.stage == "update":
        if different := next((name for name, data in left.items() if made.get(name) != data), None):
            raise DataError(f"{output}: made again, {different} comes out different")
        return "same bytes"  # of what pruning has left: the state has the hashes of the rest
    for difference in _differences(output, again):
        raise DataError(f"{output}: made again, {difference}")
    return "same rows"


def _check_device(lineage: Lineage) -> None:
    """Raises UsageError where the output would come out otherwise here."""
    output, made = lineage.output, lineage.metadata.device
    if not made:
        return
    from stages.models.device import this_device

    here = this_device().recorded()
    if any(made.get(name, value) != value for name, value in here.items()):
        was, now = (" in ".join(str(each.get(name)) for name in here) for each in (made, here))
        raise UsageError(f"{output}: was made on {was}, and here is {now}; what computes otherwise makes other rows")
    if earlier := made.get("earlier"):
        others = "; ".join(_in_words(each) for each in earlier)
        raise UsageError(
            f"{output}: was begun elsewhere ({others}) than where it was gone on with ({_in_words(made)}); neither "
            "alone makes it again"
        )
    if (ranks := made.get("ranks", 1)) != 1:
        sharded = " --shard-base" if made.get("shard_base") else ""
        raise UsageError(
            f"{output}: was made by {ranks} processes, which add up in another order than one does; make it again with "
            f"torchrun --nproc-per-node {ranks} -m ireasoner_cli update{sharded}, and compare the two"
        )
    if made.get("batch_invariant") is False and here["name"] != "cpu":
        raise UsageError(
            f"{output}: on a GPU only what was sampled with --batch-invariant can be made again: else a completion "
            "depends on what else was in the batch and, with an adapter, on chance"
        )


def _in_words(device: dict[str, Any]) -> str:
    shown = {name: value for name, value in device.items() if name not in ("dtype", "earlier")}
    return ", ".join(str(value) if name == "name" else f"{name} {value}" for name, value in shown.items())


def _make(lineage: Lineage, out: Path, part: shards.Part | None, scratch: Path) -> None:
    metadata, params = lineage.metadata, lineage.metadata.params
    call = Call(
        out=out,
        model=metadata.model.name,
        policy=lineage.policy,
        seed=metadata.seed,
        limit=params["limit"],
        shard=str(part) if part else None,
        recipe=params.get("recipe"),
    )
    stage, own = _stage(lineage, scratch)
    stage(own, call)


def _stage(lineage: Lineage, scratch: Path) -> tuple[Callable[..., Result], Any]:
    """The stage, which knows its inputs, and its parameters."""
    inputs, params = list(lineage.inputs), lineage.metadata.params
    if lineage.metadata.stage == "score":
        from stages.score import score

        return partial(score, inputs), from_recorded(ScoreParams(), params)
    if lineage.metadata.stage == "update":
        from stages.update import update

        return partial(update, inputs), from_recorded(UpdateParams(), params)
    if lineage.metadata.stage == "propose":
        from stages.propose import propose

        pool = inputs[0] if inputs[0].is_dir() or len(inputs) == 1 else inputs[0].parent
        return partial(propose, pool), _sampled(ProposeParams(), lineage, scratch)
    if lineage.metadata.stage == "rollout":
        from stages.rollout import rollout

        asked = _sampled(RolloutParams(pass_name=params["pass"]), lineage, scratch)
        learned = _file(params["learn_prompt"], scratch / "learn.txt")
        return partial(rollout, inputs), replace(asked, learn_prompt=learned)
    from stages.evaluate import evaluate

    tasks = params.get("tasks", [])
    if len(tasks) > 1:
        raise UsageError(f"{lineage.output}: holds {len(tasks)} tasks; only an evaluation of one can be made again")
    of_tasks = EvalParams(task=tasks, reasoning=params.get("reasoning", True))
    return partial(evaluate, inputs), _sampled(of_tasks, lineage, scratch)


def _sampled(params: P, lineage: Lineage, scratch: Path) -> P:
    """`params` as recorded, the prompt's text in a file of its own; where nothing was sampled there is none."""
    recorded, device = lineage.metadata.params, lineage.metadata.device
    found = from_recorded(params, recorded)
    if "prompt" not in recorded:
        return found
    prompt = _file(recorded["prompt"], scratch / "prompt.txt")
    engine = EngineOptions(
        tensor_parallel=device.get("tensor_parallel", 1), batch_invariant=device.get("batch_invariant", False)
    )
    return replace(found, sampling=replace(found.sampling, prompt=prompt, sampler=recorded["sampler"], engine=engine))


def _file(text: str | None, file: Path) -> str | None:
    """The name of a file with the text, as a prompt is given."""
    if text is None:
        return None
    file.write_text(text, encoding="utf-8")
    return str(file)


# --------------------------------------------------------------------------------------------- comparing


def _bytes(output: Path) -> dict[str, bytes]:
    files = sorted(output.rglob("*")) if output.is_dir() else [output]
    names = [str(file.relative_to(output)) if output.is_dir() else "" for file in files]
    return {name: file.read_bytes() for name, file in zip(names, files, strict=True) if file.is_file()}


def _differences(output: Path, again: Path) -> Iterator[str]:
    schema = shards.schema_of(shards.input_files([again])[0]).remove_metadata()
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
