import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ireasoner_cli import console, options
from ireasoner_cli.config import is_own, is_typed, passes
from ireasoner_cli.recipes import phases
from stages.errors import DamagedOutput, DataError, MadeDifferently, UsageError


def command(
    context: typer.Context,
    images: Annotated[Path, options.Option(help=options.POOL)],
    out: Annotated[Path, options.Option(help="The run's folder: it0001/, it0002/ … go into it.")],
    iterations: Annotated[int, options.Option(min=1, help="Turns of the loop, those done already included.")] = 40,
    policy: Annotated[
        Path | None, options.Option(help="The policy to start from.", show_default="the base model, at step 0")
    ] = None,
    groups: Annotated[
        int | None, options.Option(min=1, help="Proposals an iteration.", show_default="[propose] groups, or 64")
    ] = None,
    benchmark: Annotated[
        Path | None, options.Option(help="A labelled benchmark to ask now and then.", show_default=False)
    ] = None,
    eval_every: Annotated[
        int, options.Option(min=1, help="Iterations from one evaluation to the next; the last is one, too.")
    ] = 5,
    keep: Annotated[
        int, options.Option(min=2, help="Policies kept whole: the last so many, and the best by the benchmark.")
    ] = 3,
    model: Annotated[
        str | None,
        options.Option(help="Hugging Face directory or hub id.", show_default="[propose] model, or as for propose"),
    ] = None,
    seed: Annotated[
        int | None,
        options.Option(min=0, max=2**63 - 1, help="The run's seed.", show_default="[propose] seed, or 0"),
    ] = None,
    seeds: Annotated[
        str | None,
        options.Option(
            help="Several seeds, as in 1,2,3: a run with each, in OUT/seed-1 and so on.", show_default=False
        ),
    ] = None,
    workers: options.Workers = None,
    ray: options.Cluster = None,
    lag: Annotated[
        int | None,
        options.Option(
            min=0,
            max=1,
            help="With 1, the next iteration is sampled while one is learned, with the policy that it learns from.",
            show_default="[update] lag, or 0",
        ),
    ] = None,
    learners: Annotated[
        int | None,
        options.Option(min=1, help="Of the workers, how many learn with --lag 1.", show_default="half of them"),
    ] = None,
    track: Annotated[
        Literal["wandb"] | None,
        options.Option(help="Send the figures to a tracker, too (the extra `track`).", show_default=False),
    ] = None,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> None:
    """Run the whole loop: the stages' own commands, iteration after iteration, on engines and learners that stay warm.

    ireasoner run --images pool/ --iterations 40 --groups 64 --out runs/first

    ireasoner run --images pool/ --out runs/first --benchmark benchmark.parquet

    ireasoner run --images more/ --policy runs/first/it0040/policy --out runs/on

    ireasoner run --images pool/ --out runs/first --workers 4

    ireasoner run --images pool/ --out runs/full --seeds 1,2,3

    It writes the files that a shell loop over propose, rollout, score, update and eval writes, with the settings these
    have from ireasoner.toml and variables. Interrupted, the same command goes on where it stopped. Of policies no
    longer kept, state and metrics stay. A run that has collapsed (no entropy, KL out of bounds, nothing parsed) stops
    and says what to change. With --seeds the runs come one after another, each as --seed makes it, and `compare` takes
    their folder as one side.

    It samples on all GPUs there are, a worker each; the files are those of one, and a run may go on with another
    number. As many workers learn as an optimizer step has groups (--groups-per-step of update), and write the policy
    that as many processes of torchrun write. One that is lost is replaced.

    With --lag 1 a share of the workers learns while the others sample the next iteration, always one policy behind. The
    files are a chain as ever, the same for any number of samplers; of one worker, which does one after the other.
    """  # fmt: skip
    if "TORCHELASTIC_RUN_ID" in os.environ:  # set by torchrun, and by nothing else
        raise UsageError("run is one process and cannot be started by torchrun; a shell loop can, its `update` alone")
    if seeds is not None and is_own(context, "seed"):
        if is_typed(context, "seed") == is_typed(context, "seeds"):
            raise typer.BadParameter("--seed is for one run and --seeds for several; leave one of them out")
        seeds = seeds if is_typed(context, "seeds") else None
    several = [] if seeds is None else _numbers(seeds)
    if not debug:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported, here before vLLM
    from ireasoner_cli.running.display import Display
    from ireasoner_cli.running.loop import Plan, run_loop
    from ireasoner_cli.running.prepare import Prepare
    from ireasoner_cli.running.tracking import tracking
    from ireasoner_cli.workers.staff import open_staff
    from stages import shards
    from stages.policy import STATE_FILE

    if (out / STATE_FILE).is_file():
        raise UsageError(f"{out} is a policy; name a folder for the run's own files with --out")
    if other := next(out.glob("it0001" if several else "seed-*/it0001"), None):
        raise UsageError(f"{other} is of {'one run' if several else 'runs with several --seeds'}; name another --out")
    named = passes(context)  # the answers come first, unless they have a place among them
    # A key at the top of ireasoner.toml reaches the stages by itself, where a stage's table may override it.
    plan = Plan(
        images,
        iterations,
        out,
        start=policy,
        groups=groups if is_own(context, "groups") else None,
        model=model if is_own(context, "model") else None,
        seed=seed if is_own(context, "seed") else None,
        benchmark=benchmark,
        eval_every=eval_every,
        keep=keep,
        recipe=recipe,
        phases=phases(recipe) if recipe else (),
        passes=named if "answer" in named else ["answer", *named],
    )
    prepare = Prepare(context, config, debug)
    if lag is None:
        lag = prepare.options("update", {"recipe": plan.recipes[0]}, out)["lag"]
    if keep < 2 + lag:
        raise UsageError(f"--lag {lag} goes back one more policy; --keep {2 + lag} or more")
    if learners and not lag:
        raise UsageError("--learners divides the workers for --lag 1, and goes with it")
    plan = replace(plan, lag=lag)
    results: list[tuple[Path, dict[str, Any]]] = []
    runs = [replace(plan, out=out / f"seed-{each}", seed=each) for each in several] or [plan]
    gpus_each = prepare.options("rollout", {"recipe": plan.recipes[0]}, out)["tensor_parallel"]
    with open_staff(workers, ray, gpus_each, debug, bool(lag), learners) as staff:
        for one in runs:
            # Alone in the folder: of two runs one would take a stage from the other, which then fails.
            with (
                shards.writing(one.out.absolute(), force=True),
                Display(iterations) as view,
                tracking(track, one.out, view.say, out.resolve().name if several else None) as tracked,
            ):
                if several:
                    view.say(f"{one.out}:")
                try:
                    summary = run_loop(one, prepare, view, staff, tracked)
                except MadeDifferently as error:
                    told = f"{error.found}; go on as it began, settings and folder, or name another --out"
                    raise UsageError(told) from error
                except DamagedOutput as error:
                    told = f"{error.found}; remove it, and what was made of it, to have it made again"
                    raise DataError(told) from error
            results.append((one.out, summary))
            if not json:
                console.result(one.out, summary, False, json)
    if json:
        made = [console.as_json_object(path, summary) for path, summary in results]
        console.print_json(made if several else made[0])


def _numbers(seeds: str) -> list[int]:
    """The seeds in a text such as `1,2,3`."""
    numbers = [int(word) for word in seeds.split(",") if word.strip().isdecimal()]
    if len(set(numbers)) < len(seeds.split(",")) or max(numbers) >= 2**63:
        raise typer.BadParameter(f"{seeds!r} is no list of different seeds, as 1,2,3 is", param_hint="--seeds")
    return numbers
