import json as jsonlib
from typing import Annotated, Any

from ireasoner_cli import console, options


def command(
    benchmark: options.Inputs,
    samples: Annotated[int, options.Option(min=1, help="Answers to each question.")] = 1,
    out: options.Out = None,
    model: options.FirstModel = None,
    policy: options.Policy = None,
    seed: options.Seed = 0,
    limit: options.LimitRows = None,
    shard: options.Shard = None,
    prompt: options.Prompt = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    max_tokens: options.MaxTokens = 256,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    sampler: options.Sampler = None,
    tensor_parallel: options.TensorParallel = 1,
    gpu_memory_utilization: options.GpuMemory = None,
    max_model_len: options.MaxModelLen = None,
    batch_invariant: options.BatchInvariant = False,
    force: options.Force = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Answer a labelled benchmark and say how much is right.

    ireasoner eval benchmark.parquet --policy policy/

    ireasoner eval benchmark.parquet --samples 5 --temperature 1 --out sampled.parquet
    """
    part = options.parse_part(shard) if shard else None
    settings = options.sampling(
        max_tokens, temperature, top_p, prompt, sampler, min_pixels, max_pixels,
        tensor_parallel, gpu_memory_utilization, max_model_len, batch_invariant, debug,
    )  # fmt: skip
    from stages.evaluate import evaluate

    result = evaluate(
        benchmark, settings, samples, seed, policy, out, model, limit, part, force, console.TerminalProgress()
    )
    if json:
        print(jsonlib.dumps({"path": str(result.path), "reused": result.reused, **result.summary}))
    else:
        note = "up to date (made from the same inputs, parameters, model and policy): " if result.reused else ""
        console.stderr.print(console.safe_text(f"{note}{result.path}"), style="dim")
        _print_table(result.summary)


def _print_table(summary: dict[str, Any]) -> None:
    """Accuracy by question type and over all, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("type", "questions", "accuracy", "± s.e.", box=box.SIMPLE_HEAD)
    for name, row in [*summary["types"].items(), ("all", summary)]:
        figures = ["–" if row[key] is None else f"{100 * row[key]:.1f} %" for key in ("accuracy", "stderr")]
        table.add_row(Text(console.plain(name)), str(row["questions"]), *figures)
    Console(highlight=False).print(table)
    if summary["unscored"]:
        console.stderr.print(f"{summary['unscored']} rows have an unreadable image and no score")
