"""What `tests.test_engine_process` watches: vLLM's engine in a process of its own, as on a GPU.

    python -m tests.engine_process MODEL ADAPTER ADAPTER

Prints a line of JSON after each thing it has done with it, and then waits to be killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.parameters.sampling import Decoding, Pixels

GREEDY = Decoding(temperature=0.0, max_tokens=8)


def engines() -> list[int]:
    """The processes of vLLM's that live below this one, without the workers below those."""
    import psutil

    children = psutil.Process().children()
    return [
        child.pid
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE and "EngineCore" in " ".join(child.cmdline())
    ]


def say(**what: Any) -> None:
    print(json.dumps({"engines": engines(), **what}), flush=True)


def main(model_dir: str, one: str, two: str) -> None:
    import typer
    from PIL import Image

    from ireasoner_cli.app import guarded
    from stages.models.finding import find_model
    from stages.sampling import Request, Wanted
    from stages.sampling.warm import WarmEngine

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without
    model, warm = find_model(model_dir), WarmEngine()
    picture = Image.new("RGB", (64, 48), "red")
    asked = [Request((picture,), f"Question {place}?", place) for place in range(3)]

    def sampled(adapter: Path | None, images: int = 1) -> list[list[int]]:
        sampler = warm(Wanted("vllm", model, adapter, Pixels(), max_images=images))
        return [sample.token_ids for sample in sampler.sample(asked, GREEDY)]  # type: ignore[union-attr]

    for adapter in (None, Path(one), Path(two)):
        say(tokens=sampled(adapter))
    assert warm._engine is not None
    warm._engine._sleeps = True  # a CPU's engine has no memory to leave, and takes the commands
    warm.sleep()
    say(asleep=warm._engine.asleep)
    say(tokens=sampled(Path(one)))

    def requests() -> Iterator[Request]:
        yield asked[0]
        os.killpg(0, signal.SIGINT)  # as a terminal sends it: to all processes
        yield from asked

    def interrupted(debug: bool) -> None:
        list(warm(Wanted("vllm", model)).sample(requests(), GREEDY))

    try:
        guarded(interrupted)(debug=False)
    except typer.Exit as left:
        say(exit=left.exit_code)
    warm.close()
    say(closed=True)
    say(tokens=sampled(Path(one), images=2))
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
