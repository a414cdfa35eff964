from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ireasoner_cli import console, options
from ireasoner_cli.config import is_default, typed
from ireasoner_cli.work import Work
from stages.parameters.evaluate import TASK_TOKENS, EvalCall, EvalParams
from stages.progress import Progress
from stages.result import Result
from stages.tasks import NAMES

NOT_FOR_PARTS = {"out", "workers", "ray", "force", "json"}


@options.declared
def command(
    context: typer.Context,
    benchmark: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A benchmark of ireasoner's own schema; with --task that task's files, a folder of them, or a data "
            "set on the Hugging Face hub.",
            show_default="with --task: below --data, or the task's own data set on the hub",
        ),
    ] = None,
    *,
    params: EvalParams,
    call: EvalCall,
    workers: options.Workers = None,
    ray: options.Cluster = None,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work | None:
    """Answer a labelled benchmark and say how much is right, with error and 95 % interval.

    ireasoner eval benchmark.parquet --policy policy/

    ireasoner eval --task chartqa ChartQA/data/*.parquet --policy policy/

    ireasoner eval --task all --data downloads/ --no-reasoning --out plain.parquet

    ireasoner eval benchmark.parquet --samples 5 --temperature 1 --out t1.parquet

    ireasoner eval --task mathvista --workers 4

    The tasks are scored by rules, MathVista, MathVision and MathVerse too, which elsewhere a proprietary model
    judges; answers that no rule could read off count as wrong and are reported as a rate. Their output is
    eval-TASK.parquet in the working directory, or eval.parquet for several.
    """
    if call.shard and (workers or ray):
        raise typer.BadParameter("--shard is one part, and --workers and --ray make all of them; leave one out")
    names = _tasks(params.task or [])
    if "list" in names:
        _list_tasks(json)
        return None
    inputs = benchmark or []
    _check(names, inputs, params)
    sampling = params.sampling
    if names and is_default(context, "max_tokens"):
        sampling = replace(sampling, decoding=replace(sampling.decoding, max_tokens=TASK_TOKENS))
    params = replace(params, task=names, sampling=sampling)
    from stages.evaluate import evaluate, output_of
    from stages.sampling import open_sampler

    stage = partial(evaluate, inputs, params, call, engines=partial(open_sampler, debug=debug))
    if call.dry_run:
        return Work(stage, partial(console.stage_result, as_json=json))
    work = Work(stage, partial(_show, whole=not call.limit and not call.shard, json=json))
    if call.shard:
        return work

    def by_workers(progress: Progress) -> Result:
        from ireasoner_cli.workers.staff import Together, open_crew

        with open_crew(workers, ray, sampling.engine.tensor_parallel, debug) as crew:
            if crew is None:
                return stage(progress=progress)
            look = replace(work, stage=partial(evaluate, inputs, params, replace(call, force=False)))
            words = partial(typed, context, NOT_FOR_PARTS)
            return Together(crew, call.force).make(look, words, output_of(inputs, params, call), progress)

    return replace(work, typed=by_workers)


def _show(result: Result, whole: bool, json: bool) -> None:
    if json:
        console.stage_result(result, as_json=True)
        return
    note = "up to date (made from the same inputs, parameters, model and policy): " if result.reused else ""
    console.stderr.print(console.safe_text(f"{note}{result.path}"), style="dim")
    _print_table(result.summary.get("tasks", {"": result.summary}))
    if whole:
        _compare_sizes(result.summary.get("tasks", {}))


def _tasks(asked: Sequence[str]) -> list[str]:
    """The names of the tasks, in the order asked for; `all` stands for every one."""
    names = [name for word in asked for name in (NAMES if word == "all" else (word,))]
    for name in names:
        if name not in (*NAMES, "list"):
            raise typer.BadParameter(f"no task {name!r}; there are {', '.join(NAMES)}, all and list")
    return list(dict.fromkeys(names))


def _check(names: Sequence[str], inputs: Sequence[Path], params: EvalParams) -> None:
    if not names and not inputs:
        raise typer.BadParameter("name a benchmark's file, or a --task")
    if not names and (params.data or not params.reasoning):
        raise typer.BadParameter(f"{'--data' if params.data else '--no-reasoning'} goes with --task")
    if len(names) > 1 and inputs:
        raise typer.BadParameter("files can be named for one task at a time; several find theirs below --data")
    if inputs and params.data:
        raise typer.BadParameter("the files are named already; --data is for finding them")
    if params.sampling.prompt and not params.reasoning:
        raise typer.BadParameter("--no-reasoning has a prompt of its own; --prompt replaces the Solver's")


def _list_tasks(json: bool) -> None:
    """The tasks with split, size, metric, subsets and data set, on stdout."""
    from stages import tasks

    loaded = [tasks.load(name) for name in NAMES]
    fields = ("name", "title", "split", "size", "metric", "subsets", "hub")
    if json:
        console.print_json([{field: getattr(task, field) for field in fields} for task in loaded])
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "split", "questions", "metric and subsets", "data set"):
        # What is to be typed is never cut, nor the split's name.
        table.add_column(heading, no_wrap=heading != "metric and subsets")
    for task in loaded:
        table.add_row(task.name, task.split, f"{task.size:,}", f"{task.metric}; {task.subsets}", task.hub)
    console.print_table(table)


def _print_table(tasks: dict[str, dict[str, Any]]) -> None:
    """Accuracy by task, and in each by type and over all, on stdout; on stderr what needs looking at."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    k = max((summary.get("k", 1) for summary in tasks.values()), default=1)
    several = len(tasks) > 1
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)  # close enough for 80 columns
    table.add_column("task" if several else "type", overflow="fold")
    headings = ["questions", "accuracy", "± s.e.", "95 % interval", "no answer"]
    for heading in headings + ([f"maj@{k}", f"pass@{k}"] if k > 1 else []):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, summary in tasks.items():
        by_type = [(f"  {name}" if several else name, row) for name, row in summary["types"].items()]
        whole = (task if several else "all", summary)
        for name, row in [whole, *by_type] if several else [*by_type, whole]:
            bounds = "–" if row["low"] is None else f"{100 * row['low']:.1f} to {_percent(row['high'])}"
            figures = [str(row["questions"]), *(_percent(row[key]) for key in ("accuracy", "stderr")), bounds]
            figures += [_percent(row["no_answer"]) if "no_answer" in row else ""]
            figures += [_percent(row[key]["mean"]) if key in row else "" for key in ("majority@k", "pass@k")] * (k > 1)
            table.add_row(Text(console.plain(name)), *figures)
    console.print_table(table)
    for task, summary in tasks.items():
        where = f"{task}: " if task else ""
        if summary["unscored"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in summary["reject_reasons"].items())
            rows = console.counted(summary["unscored"], "row")
            console.stderr.print(console.plain(f"{where}without a score: {rows} ({reasons})"))
        if summary["left_out"]:
            rows = console.counted(summary["left_out"], "row")
            console.stderr.print(console.plain(f"{where}left out, not part of the benchmark: {rows}"))
        if (summary["truncated"] or 0) > 0.01:
            share = _percent(summary["truncated"])
            console.stderr.print(f"{where}{share} of the answers ran into --max-tokens")


def _compare_sizes(found: dict[str, dict[str, Any]]) -> None:
    """Says where a task had not as many questions as it has officially: a figure of other questions is another one."""
    from stages import tasks

    for name, summary in found.items():
        asked, size = summary["questions"] + summary["unscored"], tasks.load(name).size
        if asked != size:
            questions = console.counted(asked, "question")
            console.stderr.print(f"{name}: the files hold {questions}, and the official split {size:,}")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
