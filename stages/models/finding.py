"""Which model: finding it, fingerprinting it, and the parts of it that need no torch."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages import hub
from stages.contract import ModelRef
from stages.errors import EngineError, OtherModel, UsageError
from stages.models.embeddings import EmbeddingTable
from stages.models.untrusted import MIB, Refused, check_links, read_json, tensor_headers

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"

# What stands for visual input in a Qwen prompt, and must never be sampled: a completion that holds one cannot
# be scored, because the model would look for an image behind it.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
INDEX_FILE, WHOLE_FILE = "model.safetensors.index.json", "model.safetensors"
# The model once more, in the form of Mistral's own software, which vLLM prefers: it is left alone.
OTHER_FORM = ("consolidated*", "params.json", "tekken.json")
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "depth")
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

    def settings(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of its folder, empty where there is no such file. Raises EngineError for a damaged
        one."""
        file = self.path / name
        try:
            return read_json(file) if file.is_file() else {}
        except Refused as error:
            raise EngineError(str(error)) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.settings("config.json")

    @property
    def architectures(self) -> list[str]:
        """The names of its model classes, as config.json gives them."""
        names = self.config.get("architectures")
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

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

        Raises EngineError for a damaged file, and when neither names one: a completion could then only end by running
        out.
        """
        text_config = self.config.get("text_config")
        sources = [self.settings("generation_config.json"), self.config]
        for source in [*sources, *([text_config] if isinstance(text_config, dict) else [])]:
            ids = source.get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
        raise EngineError(f"{self.ref.name}: neither generation_config.json nor config.json names an eos_token_id")

    def context(self, at_most: int | None = None) -> int | None:
        """Tokens of prompt and completion together: `at_most`, or fewer by config.json; None where neither says."""
        text_config = self.config.get("text_config")
        sources = [self.config, *([text_config] if isinstance(text_config, dict) else [])]
        lengths = [*(source.get("max_position_embeddings") for source in sources), at_most]
        return min((length for length in lengths if isinstance(length, int)), default=None)

    @property
    def weight_files(self) -> list[Path]:
        """Those of its safetensors files that transformers and vLLM read, in order."""
        return weight_files(self.path)

    def embedding_table(self) -> EmbeddingTable:
        return EmbeddingTable(self.path)


def locate_model(name: str | None, recorded: ModelRef) -> Model:
    """The model a shard or a policy records, at `name` if it lies elsewhere now. Raises as `find_model` does."""
    if name is None or name == recorded.name:
        return find_model(recorded.name, recorded.revision, recorded.sha256)
    return find_model(name, None, recorded.sha256)


def find_model(name: str, revision: str | None = None, expected_sha256: str | None = None) -> Model:
    """The model called `name`: a Hugging Face directory, or a hub id, downloaded if need be.

    Raises UsageError when a path names no folder, EngineError for a folder that holds no model and for a hub id that
    cannot be had, OtherModel when it is not the model with the fingerprint `expected_sha256`.
    """
    path = Path(name)
    if path.is_dir():
        name, revision = str(path), None
    else:
        path, revision = _from_hub(name, revision)
    if not (path / "config.json").is_file():
        raise EngineError(f"{name}: not a model folder, it has no config.json")
    try:
        _check_folder(path)
    except Refused as error:
        raise EngineError(str(error)) from error
    digest = fingerprint(path)
    if expected_sha256 and digest != expected_sha256:
        raise OtherModel(
            f"{name}: not the model that the input or the policy was made with (its files have other contents)"
        )
    return Model(ModelRef(name, revision, digest), path)


def weight_files(path: Path) -> list[Path]:
    """The weights of the model folder `path`: the files that its index names, or the one file of those without, or all.

    Some publishers put the same weights beside these once more, in another form. Raises Refused for a damaged index.
    """
    if (path / INDEX_FILE).is_file():
        placed = read_json(path / INDEX_FILE).get("weight_map")
        return sorted({path / name for name in placed.values()}) if isinstance(placed, dict) else []
    whole = path / WHOLE_FILE
    return (
        [whole] if whole.is_file() else sorted(file for file in path.glob("*.safetensors") if not is_other_form(file))
    )


def is_other_form(file: Path) -> bool:
    """Whether a file of a model folder is of the model's OTHER_FORM."""
    return any(file.match(pattern) for pattern in OTHER_FORM)


def _check_folder(path: Path) -> None:
    """Raises Refused for a folder in which a library could execute something, or that would have it read elsewhere."""
    # The hub's cache keeps the files of a snapshot beside it, behind links.
    cached = path.resolve().parent
    check_links(path, cached.parent if cached.name == "snapshots" else None)
    config = read_json(path / "config.json")
    there = {file.name for file in path.glob("*.safetensors")}
    if not there:
        raise Refused(f"{path}: no weights in safetensors format; others can execute code when read, and are not")
    if (path / "adapter_config.json").exists():
        raise Refused(f"{path}: an adapter, not a model; --policy takes policies, --model whole models")
    if (path / INDEX_FILE).exists():
        placed = read_json(path / INDEX_FILE).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(v, str) and v in there for v in placed.values()):
            raise Refused(f"{path / INDEX_FILE}: names weight files that are not in this folder")
    tensors = [tensor for file in weight_files(path) for tensor in tensor_headers(file).values()]
    longest = max((length for tensor in tensors for length in tensor.shape), default=0)
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(part, dict):
            _check_sizes(part, path / "config.json", len(tensors), longest)


def _check_sizes(config: dict[str, object], file: Path, tensors: int, longest: int) -> None:
    """A model is laid out as its configuration says before its weights are found not to fit: absurd sizes would take
    all memory first."""
    sizes = {key: value for key, value in config.items() if isinstance(value, int)}
    heads = sizes.get("num_attention_heads", 1) * sizes.get("head_dim", 1)
    for key, value in [*sizes.items(), ("num_attention_heads × head_dim", heads)]:
        if key in LAYER_COUNTS and not 0 <= value <= tensors:
            raise Refused(f"{file}: {key} is {value}, and the weights hold {tensors} tensors")
        if key.endswith(("_size", "_dim", "_heads", "_channels")) and not 0 <= value <= longest:
            raise Refused(f"{file}: {key} is {value}, and no tensor of the weights is longer than {longest}")


def _from_hub(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise UsageError(f"{name}: no such model folder")
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "prompts/*"]
    path = hub.fetch(name, patterns, revision=revision, without=OTHER_FORM)
    return path, path.name


def fingerprint(path: Path) -> str:
    """SHA-256 over the configuration, tokenizer and processor files and, of each weight file, its size and a
    MiB at the start, the middle and the end: enough to tell checkpoints apart without reading them whole."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir(), key=lambda file: file.name):
        if is_other_form(file):
            continue
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
