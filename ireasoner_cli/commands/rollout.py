from functools import partial
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work


def command(
    questions: options.Inputs,
    samples: Annotated[int, options.Option(min=1, help="N, answers to each question.")] = 5,
    out: options.Out = None,
    model: options.Model = None,
    policy: options.Policy = None,
    limit: options.Limit = None,
    shard: options.Shard = None,
    prompt: options.Prompt = None,
    temperature: options.Temperature = 1.0,
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
    dry_run: options.DryRun = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> Work:
    """Sample N reasoned answers to each question.

    ireasoner rollout questions.parquet

    ireasoner rollout questions.parquet --policy it0001/policy --samples 8
    """
    part = options.parse_part(shard) if shard else None
    settings = options.sampling(
        max_tokens, temperature, top_p, prompt, sampler, min_pixels, max_pixels,
        tensor_parallel, gpu_memory_utilization, max_model_len, batch_invariant, debug,
    )  # fmt: skip
    from stages.rollout import rollout

    stage = partial(rollout, questions, settings, samples, policy, out, model, limit, part, force, dry_run=dry_run)
    return Work(stage, partial(console.stage_result, as_json=json))
