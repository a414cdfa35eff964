"""Which questions, and how they are asked."""

from dataclasses import dataclass
from pathlib import Path

from stages.parameters.call import FirstCall
from stages.parameters.option import option
from stages.parameters.sampling import SAMPLING, Decoding, Sampling
from stages.tasks import NAMES

TASK_TOKENS = 1024  # the default of --max-tokens with --task


@dataclass(frozen=True)
class EvalDecoding(Decoding):
    """Tasks have longer answers."""

    max_tokens: int = option(
        256, "New tokens at most.", minimum=1, shown=f"256; {TASK_TOKENS} with --task", panel=SAMPLING
    )


@dataclass(frozen=True)
class EvalParams:
    """The options of `eval`."""

    task: list[str] | None = option(
        None,
        f"{', '.join(NAMES)}; all of them; or list, which shows splits, metrics and sizes. Can be repeated.",
        shown=False,
        completed=(*NAMES, "all", "list"),
        recorded=False,
    )
    data: Path | None = option(
        None, "The folder of the tasks' downloads, in folders of their own.", shown=False, recorded=False
    )
    reasoning: bool = option(True, "Ask in the Solver's prompt, or for the answer alone (tasks only).", recorded=False)
    samples: int = option(1, "Answers to each question; from two on also pass@k and majority@k.", minimum=1)
    sampling: Sampling = Sampling(decoding=EvalDecoding(temperature=0.0))


@dataclass(frozen=True)
class EvalCall(FirstCall):
    """What is counted is questions."""

    limit: int | None = option(None, "Only the first so many questions.", minimum=1, shown=False)
