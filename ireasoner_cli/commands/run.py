import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ireasoner_cli import console, options
from ireasoner_cli.config import is_own
from ireasoner_cli.recipes import phases
from stages.errors import MadeDifferently, UsageError


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
    workers: options.Workers = None,
    ray: options.Cluster = None,
    track: Annotated[
        Literal["wandb"] | None,
        options.Option(help="Send the figures to a tracker, too (the extra `track`).", show_default=False),
    ] = None,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> None:
    """Run the whole loop: the stages' own commands, iteration after iteration, on engines that stay warm.

    ireasoner run --images pool/ --iterations 40 --groups 64 --out runs/first

    ireasoner run --images pool/ --out runs/first --benchmark benchmark.parquet

    ireasoner run --images more/ --policy runs/first/it0040/policy --out runs/on

    ireasoner run --images pool/ --out runs/first --workers 4

    It writes the files that a shell loop over propose, rollout, score, update and eval writes, with the settings these
    have from ireasoner.toml and variables. Interrupted, the same command goes on where it stopped. Of policies no
    longer kept, state and metrics stay. A run that has collapsed (no entropy, KL out of bounds, nothing parsed) stops
    and says what to change.

    It samples on all GPUs there are, a worker each; the files are those of one, and a run may go on with another
    number. One that is lost is replaced.
    """  # fmt: skip
    if "TORCHELASTIC_RUN_ID" in os.environ:  # set by torchrun, and by nothing else
        raise UsageError("run is one process and cannot be started by torchrun; a shell loop can, its `update` alone")
    if not debug:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported, here before vLLM
    from ireasoner_cli.running.display import Display
    from ireasoner_cli.running.loop import Plan, run_loop
    from ireasoner_cli.running.prepare import Prepare
    from ireasoner_cli.running.tracking import tracking
    from ireasoner_cli.workers.sampling import Here, InParts, open_crew
    from stages import shards

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
    )
    prepare = Prepare(context, config, debug)
    gpus_each = prepare.setting("tensor_parallel", "rollout", {"recipe": plan.recipes[0]}, out)
    # Alone in the folder: of two runs one would take a stage from the other, which then fails.
    with (
        shards.writing(out, force=True),
        open_crew(workers, ray, gpus_each, debug) as crew,
        Display(iterations) as view,
        tracking(track, out, view.say) as tracked,
    ):
        try:
            summary = run_loop(plan, prepare, view, InParts(crew) if crew else Here(debug), tracked)
        except MadeDifferently as error:
            raise UsageError(f"{error.found}; go on with the settings it began with, or name another --out") from error
    console.result(out, summary, False, json)
