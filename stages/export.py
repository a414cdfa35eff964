"""`export`: the policy's Solver as a plain checkpoint, its adapter merged into the base weights.

    policy/ + base model ──▶ OUT/

    W' = W + (α/r)·B·A     for every projection that the adapter covers; all else is copied byte for byte, but for
                           what holds the base model once more in another form

The weight files keep their layout and types, so each is copied and the changed tensors are written over in place:
memory holds one tensor at a time, whatever the size of the model.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages import shards
from stages.contract import SOLVER, Metadata
from stages.errors import DataError, EngineError, UsageError
from stages.models.card import model_card
from stages.models.finding import Model, is_other_form, locate_model
from stages.models.untrusted import Refused, StoredTensor, tensor_headers
from stages.policy import ADAPTER_FILE, check_model, open_policy
from stages.progress import SILENT, Progress
from stages.result import Result

LINEAGE_FILE = "ireasoner.json"  # in the checkpoint: what it is made of, and so that it is told from its base model
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
# A projection's path in the adapter, which is that of the module, and its possible names in a checkpoint.
SPELLINGS = (("", ""), ("model.language_model.", "model."), ("model.language_model.", "language_model.model."))


def export(
    policy: Path, out: Path, model: str | None = None, force: bool = False, progress: Progress = SILENT
) -> Result:
    """Writes the merged checkpoint, with the model's own configuration, tokenizer, processor and prompts, and a model
    card. `model` is where the base model lies, if not where the policy records it.

    Raises UsageError for an output in the way, DataError for a policy or an adapter that does not fit the model,
    EngineError for weights that cannot be read or merged into.
    """
    start = open_policy(policy)
    assert start.state is not None
    checkpoint = locate_model(model, start.state.model)
    check_model(start, checkpoint.ref)
    _check_place(out, policy, checkpoint.path)
    lineage = Metadata(
        stage="export",
        params={"role": SOLVER, "update": start.state.lineage.params},
        seed=start.state.lineage.seed,
        inputs=start.state.lineage.inputs,
        model=checkpoint.ref,
        policy=start.ref,
    )
    if _is_done(out, lineage, force):
        return Result(out, reused=True, summary={"step": start.state.step})

    lora = start.state.lora
    with shards.writing(out, force) as partial:
        folder = partial / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
        folder.mkdir()
        try:
            _copy_files(checkpoint.path, folder)
            merged = _merge(checkpoint, policy / SOLVER, lora.alpha / lora.rank, folder, progress)
            _write(folder / LINEAGE_FILE, lineage.to_json() + "\n")
            _write(folder / "README.md", model_card(lineage, start.state, out.resolve().name))
            shards.sync_tree(folder)
            shards.publish_directory(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # gone already where all went well
    return Result(out, summary={"step": start.state.step, "merged": merged})


def _matrices(adapter: Path) -> dict[str, tuple[Any, Any]]:
    """Each module's path with its matrices A [r, in] and B [out, r], of a LoRA adapter of PEFT's plain kind, which is
    what `update` writes. Raises DataError for a damaged file."""
    from safetensors.torch import load_file

    file = adapter / ADAPTER_FILE
    try:
        tensors = load_file(file)
        modules = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
        pairs = {
            module.removeprefix("base_model.model."): tuple(
                tensors.pop(f"{module}.lora_{half}.weight") for half in "AB"
            )
            for module in modules
        }
    except Exception as error:  # safetensors raises its own class for damage
        raise DataError(f"{file}: missing, damaged or no LoRA adapter ({error})") from error
    if tensors:
        raise DataError(f"{file}: {next(iter(tensors))} is no LoRA matrix; only plain LoRA can be merged")
    return pairs


def _merge(model: Model, adapter: Path, scale: float, folder: Path, progress: Progress) -> int:
    """Copies the weight files into `folder` and adds the adapter there; how many tensors changed."""
    pairs = _matrices(adapter)
    files = model.weight_files
    try:
        headers = {file: tensor_headers(file) for file in files}
    except Refused as error:
        raise EngineError(str(error)) from error
    names = {name: module for module in pairs for name in _names(module)}
    found = [(file, name) for file, header in headers.items() for name in header if name in names]
    if missing := set(pairs) - {names[name] for _, name in found}:
        raise DataError(f"{adapter}: {min(missing)} is not in {model.ref.name}; this adapter does not fit it")
    with progress.track("export", len(files), "weight files") as advance:
        for file, header in headers.items():
            copy = folder / file.name
            shutil.copyfile(file, copy)
            for name in [name for source, name in found if source == file]:
                _add(copy, name, header[name], pairs[names[name]], scale)
            advance(1)
    return len(found)


def _names(module: str) -> Iterator[str]:
    for prefix, spelling in SPELLINGS:
        if module.startswith(prefix):
            yield f"{spelling}{module.removeprefix(prefix)}.weight"


def _add(file: Path, name: str, stored: StoredTensor, pair: tuple[Any, Any], scale: float) -> None:
    """W' = W + scale·B·A in the file, computed in float32 and rounded once to the tensor's own type."""
    import torch

    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if stored.dtype not in types:
        raise EngineError(f"{file.name}: {name} is {stored.dtype}; only F32, F16 and BF16 weights can be merged into")
    lora_a, lora_b = (matrix.float() for matrix in pair)
    if lora_a.shape[0] != lora_b.shape[1] or (lora_b.shape[0], lora_a.shape[1]) != stored.shape:
        raise DataError(f"the adapter's {name} is {lora_b.shape[0]}×{lora_a.shape[1]}, and the model's {stored.shape}")
    dtype = types[stored.dtype]
    with file.open("r+b") as weights:
        weights.seek(stored.start)
        data = bytearray(weights.read(math.prod(stored.shape) * dtype.itemsize))
        weight = torch.frombuffer(data, dtype=dtype).view(stored.shape)
        weight.copy_(weight.float() + scale * (lora_b @ lora_a))
        weights.seek(stored.start)
        weights.write(data)


# ----------------------------------------------------------------------------------------------- on disk


def _check_place(out: Path, policy: Path, model: Path) -> None:
    target = out.resolve()
    for what, path in (("policy", policy.resolve()), ("base model", model.resolve())):
        if target == path or path in target.parents or target in path.parents:
            raise UsageError(f"{out} is, holds or lies in the {what}; name another folder with --merge")
    if out.exists() and not (out / LINEAGE_FILE).is_file():
        raise UsageError(f"{out} is in the way, and not a checkpoint that was exported; name another folder")


def _is_done(out: Path, lineage: Metadata, force: bool) -> bool:
    shards.restore_directory(out, force)
    if not out.exists() or force:
        return False
    try:
        text = (out / LINEAGE_FILE).read_text(encoding="utf-8")
        different = shards.differences(Metadata.from_json(text, str(out)), lineage)
    except (OSError, ValueError, DataError) as error:
        raise UsageError(f"{out} exists and cannot be read; use --force to replace it. {error}") from error
    if different:
        raise UsageError(f"{out} exists and was made differently ({different[0]}); use --force, or another --merge")
    return True


def _copy_files(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file() and file.name != LINEAGE_FILE and not is_other_form(file):
                shutil.copyfile(file, folder / file.name)
    if (source / "prompts").is_dir():
        (folder / "prompts").mkdir()
        for file in (source / "prompts").glob("*.txt"):
            shutil.copyfile(file, folder / "prompts" / file.name)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
