from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work

CONSTANTS = "Constants of the rewards"


class Embedding(StrEnum):
    static = "static"
    hidden = "hidden"


class Reward(StrEnum):
    mixed = "mixed"
    answer = "answer"
    step = "step"


def command(
    rollouts: options.Inputs,
    reward: Annotated[
        Reward, options.Option(help="The Solver's reward: both parts by schedule, or one alone.")
    ] = Reward.mixed,
    embedding: Annotated[
        Embedding,
        options.Option(
            help="What steps are compared by: the model's token embeddings (the paper's, blind to the order of the "
            "words), or the policy's hidden states, for which the model is loaded and the images are read."
        ),
    ] = Embedding.static,
    no_decay: Annotated[bool, options.Option("--no-decay", help="All step positions weigh the same.")] = False,
    no_density: Annotated[
        bool, options.Option("--no-density", help="Small agreeing groups count like large ones.")
    ] = False,
    no_warmup: Annotated[
        bool, options.Option("--no-warmup", help="The step reward has its full weight from the start.")
    ] = False,
    total_steps: Annotated[int, options.Option(min=1, help="T, training steps of the whole run.")] = 2500,
    max_steps: Annotated[int, options.Option(min=1, help="Reasoning steps considered, at most.")] = 8,
    answer_exponent: Annotated[float, options.Option(min=0.0, help="α", rich_help_panel=CONSTANTS)] = 0.7,
    length_penalty: Annotated[float, options.Option(min=0.0, max=1.0, help="η", rich_help_panel=CONSTANTS)] = 0.05,
    length_limit: Annotated[
        int, options.Option(min=1, help="W, words before the answer.", rich_help_panel=CONSTANTS)
    ] = 64,
    decay: Annotated[float, options.Option(min=0.0, help="δ, a position.", rich_help_panel=CONSTANTS)] = 0.15,
    density_exponent: Annotated[float, options.Option(min=0.0, help="γ", rich_help_panel=CONSTANTS)] = 0.7,
    warmup: Annotated[
        float, options.Option(min=0.0, max=1.0, help="h, share of T without step reward.", rich_help_panel=CONSTANTS)
    ] = 0.3,
    max_step_weight: Annotated[float, options.Option(min=0.0, max=1.0, help="λ_max", rich_help_panel=CONSTANTS)] = 0.7,
    entropy_target: Annotated[float, options.Option(min=0.0, help="m, nats.", rich_help_panel=CONSTANTS)] = 0.90,
    entropy_width: Annotated[float, options.Option(min=0.001, help="s, nats.", rich_help_panel=CONSTANTS)] = 0.35,
    out: options.Out = None,
    model: options.Model = None,
    policy: Annotated[
        Path | None,
        options.Option(
            help="The policy that the rollouts were sampled from; only --embedding hidden looks at it.",
            show_default="the base model, at step 0",
        ),
    ] = None,
    limit: options.Limit = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> Work:
    """Reward every trajectory for agreement, of its answer and of its steps.

    ireasoner score rollouts.parquet

    ireasoner score rollouts.parquet --no-decay --out no-decay.parquet

    ireasoner score rollouts.parquet --embedding hidden --policy policy/
    """
    from stages.score import ScoreParams, score

    params = ScoreParams(
        reward.value, embedding.value, max_steps, total_steps, no_decay, no_density, no_warmup, answer_exponent,
        length_penalty, length_limit, decay, density_exponent, warmup, max_step_weight, entropy_target,
        entropy_width, limit,
    )  # fmt: skip
    return Work(
        partial(score, rollouts, params, out, model, force, dry_run=dry_run, policy=policy),
        partial(console.stage_result, as_json=json),
    )
