"""Which model: finding it, fingerprinting it, and the parts of it that need no torch.

The tokenizer and the input embeddings are read here straight from the checkpoint, so that `score` can embed
reasoning steps without loading the model.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from stages.contract import ModelRef
from stages.errors import DataError, EngineError, UsageError

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
MIB = 1 << 20

# What stands for visual input in a Qwen prompt, and must never be sampled: a completion that holds one cannot
# be scored, because the model would look for an image behind it.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
VISION_CONFIG_KEYS = (
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "video_token_index",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
)


@dataclass(frozen=True)
class Model:
    """A checkpoint on this machine."""

    ref: ModelRef
    path: Path

    @cached_property
    def config(self) -> dict[str, object]:
        return json.loads((self.path / "config.json").read_text())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.read_tokenizer()

    def read_tokenizer(self) -> Tokenizer:
        """The tokenizer by itself, a fresh one. Raises EngineError when there is no usable tokenizer.json."""
        try:
            return Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise EngineError(f"{self.ref.name}: its tokenizer.json cannot be read ({error})") from error

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The spellings that the tokenizer turns into control tokens; never empty."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        return tuple(sorted({token.content for token in added if token.special} | set(VISION_TOKENS)))

    @cached_property
    def forbidden_tokens(self) -> tuple[int, ...]:
        """Ids of the vision placeholder tokens, masked when sampling and when learning."""
        by_name = {self.tokenizer.token_to_id(token) for token in VISION_TOKENS}
        by_config = {self.config.get(key) for key in VISION_CONFIG_KEYS}
        return tuple(sorted(token for token in by_name | by_config if isinstance(token, int)))

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """Ids of the tokens that end a turn: those of generation_config.json, otherwise of config.json.

        Raises EngineError when neither names one: a completion could then only end by running out.
        """
        generation = self.path / "generation_config.json"
        sources = [json.loads(generation.read_text())] if generation.exists() else []
        text_config = self.config.get("text_config")
        sources += [self.config, *([text_config] if isinstance(text_config, dict) else [])]
        for source in sources:
            ids = source.get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
        raise EngineError(f"{self.ref.name}: neither generation_config.json nor config.json names an eos_token_id")

    def embedding_table(self) -> "EmbeddingTable":
        return EmbeddingTable(self.path)


def locate_model(name: str | None, recorded: ModelRef) -> Model:
    """The model a shard or a policy records, at `name` if it lies elsewhere now. Raises as `find_model` does."""
    if name is None or name == recorded.name:
        return find_model(recorded.name, recorded.revision, recorded.sha256)
    return find_model(name, None, recorded.sha256)


def find_model(name: str, revision: str | None = None, expected_sha256: str | None = None) -> Model:
    """The model called `name`: a Hugging Face directory, or a hub id, downloaded if need be.

    Raises UsageError when a path names no folder, EngineError for a folder that holds no model and for a hub id that
    cannot be had, DataError when it is not the model with the fingerprint `expected_sha256`.
    """
    path = Path(name)
    if path.is_dir():
        name, revision = str(path), None
    else:
        path, revision = _from_hub(name, revision)
    if not (path / "config.json").is_file():
        raise EngineError(f"{name}: not a model folder, it has no config.json")
    try:
        json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise EngineError(f"{name}: its config.json is not JSON ({error})") from error
    digest = fingerprint(path)
    if expected_sha256 and digest != expected_sha256:
        raise DataError(
            f"{name}: not the model that the input or the policy was made with (its files have other contents)"
        )
    return Model(ModelRef(name, revision, digest), path)


def _from_hub(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise UsageError(f"{name}: no such model folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "prompts/*"]
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(
            f"{name}: neither a folder here nor to be had from the Hugging Face hub ({reason})"
        ) from error
    return path, path.name  # the snapshot folder is named by the resolved commit


def fingerprint(path: Path) -> str:
    """SHA-256 over the configuration, tokenizer and processor files and, of each weight file, its size and a
    MiB at the start, the middle and the end: enough to tell checkpoints apart without reading them whole."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir(), key=lambda file: file.name):
        if file.suffix in (".json", ".jinja", ".model") or file.name in ("merges.txt", "vocab.txt"):
            content = file.read_bytes()
        elif file.suffix == ".safetensors":
            content = _samples(file)
        else:
            continue
        digest.update(f"{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _samples(file: Path) -> bytes:
    size = file.stat().st_size
    pieces = [str(size).encode()]
    with file.open("rb") as weights:
        for start in (0, max(0, size // 2 - MIB // 2), max(0, size - MIB)):
            weights.seek(start)
            pieces.append(weights.read(MIB))
    return b"".join(pieces)


class EmbeddingTable:
    """The model's input token embeddings, mapped from the checkpoint: only the rows asked for are read.

    numpy has no bfloat16, so the bytes are widened here rather than torch imported for it.
    """

    def __init__(self, path: Path) -> None:
        """Finds the one tensor whose name ends in `embed_tokens.weight`, in any of the weight files.

        Raises EngineError when there is none, or its file cannot be read.
        """
        for file in sorted(path.glob("*.safetensors")):
            header, offset = _safetensors_header(file)
            for name, entry in header.items():
                if name.endswith("embed_tokens.weight"):
                    self._map(file, entry, offset)
                    return
        raise EngineError(f"{path}: no tensor embed_tokens.weight in its safetensors files")

    def _map(self, file: Path, entry: dict, offset: int) -> None:
        dtypes = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        self._bfloat16 = entry["dtype"] == "BF16"
        if entry["dtype"] not in dtypes:
            raise EngineError(f"{file}: embeddings of type {entry['dtype']} are not supported")
        rows, self.width = entry["shape"]
        try:
            self._rows = np.memmap(
                file, dtypes[entry["dtype"]], "r", offset + entry["data_offsets"][0], (rows, self.width)
            )
        except (OSError, ValueError) as error:
            raise EngineError(f"{file}: truncated or damaged ({error})") from error

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, token_ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """Embeddings [n, width], float32, of `token_ids` [n]."""
        rows = self._rows[np.asarray(token_ids, dtype=np.int64)]
        if self._bfloat16:
            wide = rows.astype(np.uint32)
            return np.left_shift(wide, 16, out=wide).view(np.float32)
        return rows.astype(np.float32)


def _safetensors_header(file: Path) -> tuple[dict[str, dict], int]:
    try:
        with file.open("rb") as weights:
            length = int.from_bytes(weights.read(8), "little")
            if length > min(100 * MIB, file.stat().st_size):
                raise ValueError("header longer than the file")
            header = json.loads(weights.read(length))
            header.pop("__metadata__", None)
            return header, 8 + length
    except (OSError, ValueError) as error:
        raise EngineError(f"{file}: not a safetensors file, or damaged ({error})") from error
