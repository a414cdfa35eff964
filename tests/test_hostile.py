"""Images, names, weights, text and numbers from anywhere."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from ireasoner_cli.console import safe_text
from stages import shards
from stages.contract import TRAJECTORY
from stages.errors import DataError, EngineError, StageError
from stages.images.reading import MAX_PIXELS, UnreadableImage, decode, read_file
from stages.learning.learner import Learner, UpdateParams
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.policy import open_policy
from stages.propose import propose
from stages.rollout import rollout
from stages.sampling import Sample
from stages.sampling.fake import FakeSampler
from stages.sampling.rows import NOT_FINITE
from stages.score import score
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.campaigns import fuzz
from tests.chain import fake
from tests.conftest import draw

POOL = Path("pool")


# ------------------------------------------------------------------------------------------------ images


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def a_png_that_claims(width: int, height: int) -> bytes:
    """A small file with an honest header of so many pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(Image.new("1", (20_000, 20_000)), "PNG"),
    "claim": lambda: a_png_that_claims(2**31 - 1, 2**31 - 1),
    "gif": lambda: encoded(Image.new("L", (8000, 8000)), "GIF"),
    "tiff": lambda: encoded(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"),
    "strip": lambda: encoded(Image.new("L", (100_000, 1)), "PNG"),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "torn": lambda: encoded(Image.effect_noise((64, 64), 9), "JPEG")[:500],
}


def test_bombs_become_rows_with_a_reason_and_the_run_goes_on(workdir: Path) -> None:
    for name, make in BOMBS.items():
        (POOL / f"{name}.png").write_bytes(make())
    os.mkfifo(POOL / "pipe.png")
    (POOL / "device.png").symlink_to("/dev/zero")
    Image.new("CMYK", (40, 30)).save(POOL / "cmyk.jpg")
    Image.new("I;16", (40, 30)).save(POOL / "grey16.png")
    Image.new("RGB", (1, 1)).save(POOL / "pixel.png")
    rows = chain.rows(propose(POOL, ProposeParams(groups=20, sampling=fake(max_tokens=128)), Call(model="model")).path)
    reasons = {Path(row["images"][0]["path"]).stem: row["reject_reason"] for row in rows}
    refused = {name for name, reason in reasons.items() if (reason or "").startswith("unreadable image: ")}
    assert refused == {*BOMBS, "pipe", "device"}
    assert all("too many pixels" in reasons[name] for name in ("png", "claim", "gif", "tiff"))
    assert "not an ordinary file" in reasons["pipe"] and "too long and thin" in reasons["strip"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "float TIFF"])
def test_the_largest_picture_that_is_read_stays_within_a_gibibyte(tmp_path: Path, kind: str) -> None:
    program = (
        "import re, sys; from pathlib import Path; from PIL import Image; from stages import images\n"
        "data = Path(sys.argv[1]).read_bytes(); images.decode(data)\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    if kind == "float TIFF":
        picture = Image.fromarray(np.linspace(0, 1, 50_000_000, dtype=np.float32).reshape(6250, 8000))
    else:
        picture = Image.new("RGBA", (8000, 6250), (1, 2, 3, 100))
    assert picture.width * picture.height == MAX_PIXELS
    options = {"lossless": True, "method": 0} if kind == "WEBP" else {}
    picture.save(tmp_path / "large", kind.removeprefix("float "), **options)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "large")], capture_output=True, text=True)
    assert int(done.stdout) < 1024, done.stderr


def test_a_picture_turned_by_its_exif_is_upright_whatever_its_format() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (8, 4), "white")
    picture.putpixel((0, 0), (255, 0, 0))
    for kind in ("PNG", "TIFF"):
        turned = decode(encoded(picture, kind, exif=exif))
        assert turned.size == (4, 8) and turned.getpixel((3, 0)) == (255, 0, 0)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "x.png"
    with huge.open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(ValueError, match="larger than 128 MiB"):
        read_file(huge)
    with pytest.raises(UnreadableImage):
        decode(b"GIF89a" + bytes(100))


# ------------------------------------------------------------------------------------------------- names

NAMES = ["a\nb.png", "\u202egnp.exe.png", "\x1b[31mred.png", "x..png", "-rf.png", "[b]x.png", "e\u0301.png"]


def test_names_are_only_names(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, name in enumerate(NAMES):
        draw(POOL / name, index)
    (workdir / "run").mkdir()
    monkeypatch.chdir("run")
    before = sorted(map(str, workdir.rglob("*")))
    rows = chain.rows(
        propose(Path("../pool"), ProposeParams(groups=16, sampling=fake(max_tokens=128)), Call(model="../model")).path
    )
    assert {f"../pool/{name}" for name in NAMES} < {row["images"][0]["path"] for row in rows}
    rollout([Path("questions.parquet")], RolloutParams(sampling=fake()), Call(model="../model"))
    list(verify([Path("rollouts.parquet")]))
    inside = [f"{workdir}/run/{name}" for name in ("questions.parquet", "rollouts.parquet")]
    assert sorted(map(str, workdir.rglob("*"))) == sorted([*before, *inside])


def test_ids_and_input_names_of_a_shard_lead_nowhere(workdir: Path) -> None:
    rows = [row | {"group_id": "../../escape", "question": "../?"} for row in chain.group(0, "pool/0.png", [])]
    inputs = [{"name": "../../../etc/passwd", "sha256": "0" * 64}]
    questions = chain.write_shard(Path("questions.parquet"), [rows], "propose", inputs=inputs)
    before = sorted(map(str, workdir.parent.rglob("*")))
    rollout([questions], RolloutParams(sampling=fake()))
    assert sorted(map(str, workdir.parent.rglob("*"))) == sorted([*before, str(workdir / "rollouts.parquet")])
    with pytest.raises(DataError, match=r"an input called '../../../etc/passwd', which is no file name"):
        list(verify([questions]))


# ----------------------------------------------------------------------------------------------- weights


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.fixture
def copy(workdir: Path, model_dir: Path) -> Path:
    return Path(shutil.copytree(model_dir, "hostile"))


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(Path("trace").absolute())))


def as_link(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def as_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../x.safetensors"}}))


def as_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc"}))


def as_many_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder / "config.json", text_config={**config["text_config"], "num_hidden_layers": 10**9})


def with_header(header: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))

    return write


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (as_pickle, "no weights in safetensors format"),
        (as_link, "vocab.txt: a link that leads out of its folder"),
        (as_index, "names weight files that are not in this folder"),
        (as_adapter, "an adapter, not a model"),
        (as_many_layers, "num_hidden_layers is 1000000000"),
        (with_header({"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 64]}}), "does not fit"),
        (with_header({"x": {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}}), "does not fit"),
        (with_header({"embed_tokens.weight": {"shape": []}}), "not a safetensors file, or damaged"),
        (with_header(["x"]), "not a safetensors file, or damaged"),
    ],
)  # fmt: skip
def test_a_hostile_checkpoint_is_refused_unopened(copy: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(copy)
    with pytest.raises(EngineError, match=says):
        find_model(str(copy))
    assert not Path("trace").exists()


def test_code_in_a_checkpoint_is_not_run(copy: Path) -> None:
    (copy / "evil.py").write_text(f"open({str(Path('trace').absolute())!r}, 'w')\nclass Evil: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        evil = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil", "AutoProcessor": "evil.Evil"}
        rewrite(copy / name, auto_map={**evil, "AutoTokenizer": ["evil.Evil", None], "AutoImageProcessor": "evil.Evil"})
    Learner(find_model(str(copy)), UpdateParams(), 0)
    assert not Path("trace").exists()
    rewrite(copy / "config.json", model_type="evil", architectures=["Evil"])
    with pytest.raises(EngineError, match="the model cannot be loaded"):
        Learner(find_model(str(copy)), UpdateParams(), 0)
    assert not Path("trace").exists()


def test_sizes_that_are_not_those_of_the_weights_are_an_error(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    rewrite(copy / "config.json", text_config={**config["text_config"], "intermediate_size": 10**7})
    with pytest.raises(EngineError, match="intermediate_size is 10000000, and no tensor of the weights is longer"):
        find_model(str(copy))
    rewrite(copy / "config.json", text_config={**config["text_config"], "intermediate_size": 90})
    with pytest.raises(EngineError, match="the model cannot be loaded"):
        Learner(find_model(str(copy)), UpdateParams(), 0)


@pytest.fixture
def policy(workdir: Path) -> Path:
    chain.write_shard(Path("rollouts.parquet"), [chain.group(0, "pool/0.png", [chain.solution(1)] * 2)])
    score([Path("rollouts.parquet")], ScoreParams())
    return update([Path("scored.parquet")], UpdateParams()).path


def reseal(folder: Path) -> None:
    """What a forger does: the checksums made anew."""
    from stages.policy import read_state, write_state

    write_state(folder, read_state(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": 10**9}, "its r is not 16"),
        ({"target_modules": "(a+)+$"}, "its target_modules is not"),
        ({"auto_mapping": {"base_model_class": "os", "parent_library": "os"}}, "it sets auto_mapping"),
        ({"modules_to_save": ["lm_head"]}, "it sets modules_to_save"),
    ],
)
def test_a_hostile_adapter_is_refused_though_its_checksums_match(policy: Path, change: dict, says: str) -> None:
    rewrite(policy / "solver/adapter_config.json", **change)
    with pytest.raises(DataError, match=r"adapter_config\.json: damaged"):
        open_policy(policy)
    reseal(policy)
    with pytest.raises(DataError, match=says):
        open_policy(policy)


def test_adapter_files_that_are_none(policy: Path) -> None:
    file = policy / "solver/adapter_model.safetensors"
    whole = file.read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [16, 10**12], "data_offsets": [0, 64]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    reseal(policy)
    with pytest.raises(DataError, match=r"adapter_model\.safetensors: not a safetensors file, or damaged"):
        open_policy(policy)
    file.unlink()
    (policy / "solver/adapter_model.bin").write_bytes(pickle.dumps(Trap(Path("trace").absolute())))
    with pytest.raises(DataError, match=r"incomplete policy directory, solver/adapter_model\.safetensors"):
        open_policy(policy)
    Path("outside").write_bytes(whole)
    file.symlink_to(Path("outside").absolute())
    with pytest.raises(DataError, match="a link that leads out of its folder"):
        open_policy(policy)
    assert not Path("trace").exists()


# -------------------------------------------------------------------------------------------------- text


def test_fuzzed_completions() -> None:
    """The campaign that `make campaign-fuzz` runs at length."""
    figures = fuzz.campaign(rows=1000, seed=1)
    assert figures["slowest_row_seconds"] < fuzz.SECONDS_A_ROW


@pytest.mark.parametrize("text", fuzz.PIECES)
def test_nothing_reaches_the_terminal_but_text(text: str) -> None:
    written = io.StringIO()
    Console(file=written, force_terminal=True, color_system="truecolor", width=400).print(safe_text(text))
    assert all(character.isprintable() or character == "\n" for character in written.getvalue())
    assert safe_text("[red]a[/nope]").plain == "[red]a[/nope]"


# ----------------------------------------------------------------------------------------------- numbers


def test_a_log_probability_that_is_no_number_is_not_learned_from(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = FakeSampler.sample

    def spoilt(self: FakeSampler, *arguments: Any) -> Any:
        for place, given in enumerate(sample(self, *arguments)):
            assert isinstance(given, Sample)
            bad = [float("nan")] * len(given.logprobs) if place % 3 == 0 else given.logprobs
            yield Sample(given.text, given.token_ids, bad, given.finish_reason)

    monkeypatch.setattr(FakeSampler, "sample", spoilt)
    questions = propose(POOL, ProposeParams(groups=6, sampling=fake(max_tokens=128)), Call(model="model")).path
    rows = chain.rows(rollout([questions], RolloutParams(sampling=fake())).path)
    spoilt_rows = [row for row in rows if row["reject_reason"] == NOT_FINITE]
    assert spoilt_rows and all(row["token_ids"] is None and row["logprobs"] is None for row in spoilt_rows)
    assert any(row["role"] == "proposer" for row in spoilt_rows)
    update([score([Path("rollouts.parquet")], ScoreParams()).path], UpdateParams())
    learned = sum(row["tokens"] for row in chain.rows(Path("policy/metrics.parquet")) if row["role"] == "solver")
    assert learned == sum(len(row["token_ids"] or ()) for row in rows if row["role"] == "solver")
    list(verify([Path("policy")]))


def test_a_step_on_what_is_not_finite_is_skipped_and_counted(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [chain.group(index, f"pool/{index}.png", [chain.solution(1), chain.solution(2)]) for index in range(2)]
    chain.write_shard(Path("rollouts.parquet"), groups)
    scored = score([Path("rollouts.parquet")], ScoreParams()).path
    backward = Learner._backward

    def spoilt(self: Learner, *arguments: Any) -> Any:
        figures = backward(self, *arguments)
        figures[0] = float("nan")
        return figures

    monkeypatch.setattr(Learner, "_backward", spoilt)
    summary = update([scored], UpdateParams(lr=1.0)).summary
    assert summary["skipped_updates"] == summary["solver_updates"] == 2
    assert open_policy(Path("policy")).state.roles["solver"].updates == 0  # type: ignore[union-attr]


def test_embeddings_that_are_not_finite_give_no_rewards(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[name] = np.full_like(tensors[name], np.inf)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    rows = [chain.group(0, "pool/0.png", [chain.solution(1)] * 2, "hostile")]
    chain.write_shard(Path("rollouts.parquet"), rows, model={"name": "hostile"})
    with pytest.raises(EngineError, match=r"model\.safetensors: its token embeddings hold values that are not finite"):
        score([Path("rollouts.parquet")], ScoreParams())
    assert not Path("scored.parquet").exists()


@pytest.mark.parametrize("text", ['{"eos_token_id": ', "[1]"])
def test_a_damaged_generation_config_is_named(copy: Path, text: str) -> None:
    (copy / "generation_config.json").write_text(text)
    with pytest.raises(EngineError, match=r"generation_config\.json: damaged, or not JSON"):
        _ = find_model(str(copy)).end_of_turn


def test_options_that_are_no_numbers_are_wrong_usage(workdir: Path) -> None:
    chain.write_shard(Path("rollouts.parquet"), [chain.group(0, "pool/0.png", [chain.solution(1)])])
    command = [sys.executable, "-m", "ireasoner_cli", "score", "rollouts.parquet", "--decay", "inf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--decay" in done.stderr and "not a finite number" in done.stderr


def test_a_group_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.reading, "LIMIT_BYTES", 10_000)
    rows = [{"group_id": "a" * 16, "group_index": 0, "role": "proposer", "sample_index": 0}]
    rows += [{**rows[0], "role": "solver", "sample_index": i, "completion": "x" * 100} for i in range(1000)]
    path = chain.write_shard(tmp_path / "r.parquet", [rows])
    with pytest.raises(StageError, match="a single group takes more than"):
        list(shards.Shards([path], "rollout", TRAJECTORY).groups())
    assert pa.total_allocated_bytes() < 1 << 30
