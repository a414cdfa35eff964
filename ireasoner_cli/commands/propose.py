from functools import partial
from pathlib import Path
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work


def command(
    images: Annotated[Path, options.Option(help="A folder tree of images, or a Parquet dataset with an image column.")],
    groups: Annotated[int, options.Option(min=1, help="Proposals, one an image.")] = 64,
    embed_images: Annotated[bool, options.Option("--embed-images", help="Store the images in the shard.")] = False,
    out: options.Out = None,
    model: options.FirstModel = None,
    policy: options.Policy = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    shard: options.Shard = None,
    prompt: options.Prompt = None,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    max_tokens: options.MaxTokens = 128,
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
    """Ask one question about each of the next images of the pool.

    ireasoner propose --images pool/

    ireasoner propose --images pool/ --policy it0001/policy --shard 1/4
    """
    part = options.parse_part(shard) if shard else None
    settings = options.sampling(
        max_tokens, temperature, top_p, prompt, sampler, min_pixels, max_pixels,
        tensor_parallel, gpu_memory_utilization, max_model_len, batch_invariant, debug,
    )  # fmt: skip
    from stages.propose import propose

    stage = partial(
        propose, images, settings, groups, seed, embed_images, policy, out, model, limit, part, force, dry_run=dry_run
    )
    return Work(stage, partial(console.stage_result, as_json=json))
