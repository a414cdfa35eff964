"""`rollout` against bare vLLM, `score` against a plain loop: `python -m tests.benchmarks.stages`."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

from ireasoner_cli import demo
from stages import score as scoring
from stages import shards
from stages.contract import SOLVER
from stages.embedding.static import StaticEmbedder
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.rollout import RolloutParams
from stages.parameters.sampling import Decoding
from stages.parameters.score import ScoreParams
from stages.rollout import rollout
from stages.sampling import Wanted, open_sampler
from stages.sampling.rows import Asking
from stages.scoring import said
from tests import chain
from tests.benchmarks.learner import say, show
from tests.benchmarks.measure import Stopwatch
from tests.benchmarks.plain_score import PlainScorer, questions
from tests.benchmarks.rollouts import write_embeddings, write_rollouts
from tests.conftest import build_tiny_model, draw

SAMPLES = 5
MAX_TOKENS = 256
CHECKPOINT = Path(demo.__file__).parent / "model"


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# ------------------------------------------------------------------------------------------------ rollout


def race_rollout(groups: int, repetitions: int, checkpoint: Path = CHECKPOINT) -> list[dict[str, Any]]:
    """Tokens a second of the stage, files and all, and of bare `LLM.generate` on the same engine and requests."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    Path("model").symlink_to(checkpoint)
    for index in range(groups):
        draw(Path("pool") / f"{index}.png", index, (112, 112))
    written = [chain.group(index, f"pool/{index}.png", []) for index in range(groups)]
    asked = chain.write_shard(Path("questions.parquet"), written, "propose")
    model = find_model("model")
    settings = chain.sampling("vllm", max_tokens=MAX_TOKENS)
    sampler = open_sampler(Wanted("vllm", model, None, settings.pixels, settings.engine))
    requests: list[Any] = []
    real_sample = type(sampler).sample

    def keep(self: Any, source: Any, decoding: Decoding) -> Any:
        requests.extend(source := list(source))
        return real_sample(self, source, decoding)

    with mock.patch.object(Asking, "open", lambda *_: nullcontext(sampler)):
        with mock.patch.object(type(sampler), "sample", keep):
            rollout([asked], RolloutParams(samples=SAMPLES, sampling=settings), Call(out=Path("first.parquet")))
        tokens = sum(len(row["token_ids"]) for row in chain.rows(Path("first.parquet")) if row["role"] == SOLVER)
        times: dict[str, list[float]] = {"ireasoner rollout": [], "bare vLLM": []}
        for repetition in range(repetitions):
            times["bare vLLM"].append(timed(lambda: _bare(sampler, requests)))
            times["ireasoner rollout"].append(
                timed(
                    lambda: rollout(
                        [asked],
                        RolloutParams(samples=SAMPLES, sampling=settings),
                        Call(out=Path("again.parquet"), force=True),
                    )
                )
            )
            say(f"  {repetition + 1}/{repetitions} " + ", ".join(f"{n}: {t[-1]:.2f} s" for n, t in times.items()))
    sampler.close()
    bare = statistics.median(times["bare vLLM"])
    return [
        {
            "contender": name,
            "rollouts": len(requests),
            "seconds": statistics.median(seconds),
            "tokens/s": tokens / statistics.median(seconds),
            "of bare vLLM": bare / statistics.median(seconds),
        }
        for name, seconds in times.items()
    ]


def _bare(sampler: Any, requests: list[Any]) -> None:
    """The same requests, all at once, their images decoded and their prompts rendered beforehand."""
    from vllm import SamplingParams

    params = [
        SamplingParams(
            temperature=1.0,
            max_tokens=MAX_TOKENS,
            seed=request.seed,
            logprobs=0,
            detokenize=False,
            logit_bias=dict.fromkeys(sampler._forbidden, float("-inf")),
        )
        for request in requests
    ]
    builder = sampler._prompts[sampler._pixels]
    texts = {request.prompt: builder.chat_text(request.prompt) for request in requests}
    prompts = [
        {"prompt": texts[request.prompt], "multi_modal_data": {"image": list(request.images)}} for request in requests
    ]
    sampler._llm.generate(prompts, params, use_tqdm=False)


# -------------------------------------------------------------------------------------------------- score


def race_score(groups: int, repetitions: int) -> list[dict[str, Any]]:
    """Questions a second of the stage, files and all, and of a plain loop over some of them, from memory."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    build_tiny_model(Path("model"))
    write_embeddings(Path("model"))
    shard = write_rollouts(Path("rollouts.parquet"), "model", groups, SAMPLES)
    plain = PlainScorer(find_model("model"))
    some = list(islice(questions(shard), 200))
    rates: dict[str, list[float]] = {"ireasoner score": [], "plain loop": []}
    peak = 0.0
    for repetition in range(repetitions):
        rates["plain loop"].append(len(some) / timed(lambda: [plain.question(texts) for texts in some]))
        seconds, peak = _score(shard)
        rates["ireasoner score"].append(groups / seconds)
        say(f"  {repetition + 1}/{repetitions} " + ", ".join(f"{n}: {r[-1]:.0f}/s" for n, r in rates.items()))
    base = statistics.median(rates["plain loop"])
    return [
        {
            "contender": name,
            "rollouts": groups * SAMPLES if "score" in name else len(some) * SAMPLES,
            "questions/s": statistics.median(own),
            "of the plain loop": statistics.median(own) / base,
            "peak MiB": peak if "score" in name else "",
        }
        for name, own in rates.items()
    ]


def grow_score(sizes: list[int]) -> list[dict[str, Any]]:
    """How time and memory grow with the number of questions; in the folder that `race_score` left."""
    rows = []
    for groups in sizes:
        seconds, peak = _score(write_rollouts(Path("grown.parquet"), "model", groups, SAMPLES))
        rows.append(
            {"rollouts": groups * SAMPLES, "seconds": seconds, "questions/s": groups / seconds, "peak MiB": peak}
        )
        say(f"  {groups * SAMPLES} rollouts: {seconds:.1f} s, {peak:.0f} MiB")
    return rows


def share_score(groups: int) -> list[dict[str, Any]]:
    """Where the time goes, and the questions a second if a part were all there is; in the folder of `race_score`."""
    watch = Stopwatch()
    tables = shards.Shards.tables

    def read(*args: Any, **options: Any) -> Iterator[Any]:
        return iter(watch.timing("reading", tables(*args, **options).__next__), None)

    parts = (
        (said, "parse_completion", "parsing"),
        (StaticEmbedder, "_tokenise", "tokenising, on all cores"),
        (StaticEmbedder, "embed", "embedding"),
        (scoring, "score_block", "rewards and columns"),
        (shards.Output, "write", "writing"),
        (shards.Output, "__exit__", "writing"),
    )
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(shards.Shards, "tables", read))
        for owner, name, part in parts:
            patches.enter_context(mock.patch.object(owner, name, watch.timing(part, getattr(owner, name))))
        params = ScoreParams(no_warmup=True)
        seconds = timed(lambda: scoring.score([Path("rollouts.parquet")], params, Call(out=Path("shares.parquet"))))
    watch.seconds["the rest"] = seconds - sum(watch.seconds.values())
    return [
        {"part": part, "share": own / seconds, "questions/s by itself": groups / own}
        for part, own in sorted(watch.seconds.items(), key=lambda entry: -entry[1])
    ]


SCORE = """
import sys, time
from pathlib import Path
from stages.parameters import Call
from stages.parameters.score import ScoreParams
from stages.score import score
started = time.perf_counter()
score([Path(sys.argv[1])], ScoreParams(no_warmup=True), Call(out=Path("scored.parquet"), force=True))
seconds = time.perf_counter() - started
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(seconds, int(peak) / 1024)
"""


def _score(shard: Path) -> tuple[float, float]:
    """Seconds and peak resident MiB, pages of the mapped embedding table among them, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCORE, str(shard)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, peak = map(float, run.stdout.split())
    return seconds, peak


def main(
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    rollout_groups: Annotated[int, typer.Option(min=1)] = 96,
    score_groups: Annotated[int, typer.Option(min=1)] = 10_000,
    largest: Annotated[int, typer.Option(help="Groups of the largest shard to score.")] = 200_000,
    out: Annotated[Path | None, typer.Option(help="Write the tables here as JSON, too.")] = None,
) -> None:
    out = out.resolve() if out else None
    tables = {"rollout": race_rollout(rollout_groups, repetitions)}
    show(tables["rollout"], "rollout: the demonstration checkpoint, N = 5, at most 256 tokens")
    tables["score"] = race_score(score_groups, repetitions)
    show(tables["score"], "score: N = 5, 4 steps, embeddings 152,064 × 3,584")
    tables["score shares"] = share_score(score_groups)
    show(tables["score shares"], "where the time of score goes (one run)")
    tables["score sweep"] = grow_score([largest // 100, largest // 10, largest])
    show(tables["score sweep"], "how score grows (one run each)")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    typer.run(main)
