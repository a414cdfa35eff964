"""Completions as nobody should write them, through parsing, scoring and the terminal's filter.

python -m tests.campaigns.fuzz --rows 10000
python -m tests.campaigns.fuzz --coverage --seconds 600     # guided by coverage; needs `pip install atheris`
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

from ireasoner_cli.console import safe_text
from stages.parsing import answer_key, keys, notation, parse_completion, parse_question
from stages.parsing import completions as completions_read

SECONDS_A_ROW = 1.0
LONG = 1_000_000  # characters

TAGS = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<question>",
    "</question>",
    "<step>",
    "</step 3>",
    "< / THINK >",
)
STEPS = (
    "Step 1: the bar is 4\n",
    "**Step 2**: so 7\n",
    "3) ",
    "4. ",
    "- ",
    "• ",
    "2.5 metres. ",
    "\n",
    "\r\n",
    " ",
    "\t",
)
ANSWERS = (
    "42",
    "-0.50",
    "1,234,567.0",
    ".5",
    "(B)",
    "B.",
    "\\boxed{",
    "}",
    "\\text{",
    "$",
    "$$",
    "\\(",
    "\\%",
    "{,}",
    "½",
)
ESCAPES = ("\x00", "\x1b[2J", "\x1b]8;;file:///etc/passwd\x1b\\", "\x9b31m", "\x07", "\x08", "\r", "\x7f")
INVISIBLE = ("\u202e", "\u2066", "\u200b", "\ufeff", "e\u0301", "a" + "\u0335" * 200, "İ", "ß", "\ud800", "🏳️‍🌈", "٣")
MARKUP = ("[red]", "[/nope]", "[link=file:///]", "[@click=app.quit()]", "<|im_end|>", "<|image_pad|>", "{question}")
PIECES = (*TAGS, *STEPS, *ANSWERS, *ESCAPES, *INVISIBLE, *MARKUP, "<" * 50, "'; --", "<script>alert(1)</script>")
WRAPPINGS = "\\{([<*_$`\"'“‘«"
# Long runs of what a regular expression might try in many ways.
BAIT = ("a", " ", "\n", "<", "<think>", "<answer>", "(", "\\text{", "**", "1,", "Step 1: ", "-", "{", "\\", ".", "́")


def completions(seed: int) -> Iterator[str]:
    """An endless stream of them; one in 200 has a million characters."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.005:
            bait = rng.choice(BAIT)
            yield (
                rng.choice(("", "<think>", "<answer>"))
                + bait * (LONG // len(bait))
                + rng.choice(("", "</answer>", "x"))
            )
        elif rng.random() < 0.3:
            yield f"<think>{_mixture(rng, 8)}</think>\n<answer>{_mixture(rng, 4)}</answer>"
        else:
            yield _mixture(rng, 40)


def _mixture(rng: random.Random, most: int) -> str:
    return "".join(
        rng.choice(PIECES) if rng.random() < 0.9 else chr(rng.randrange(0x110000)) for _ in range(rng.randrange(most))
    )


def check(text: str) -> None:
    """Raises AssertionError when a completion gets past what must hold of all of them."""
    parsed = parse_completion(text)
    assert (parsed.answer is None) == (parsed.answer_key is None)
    assert len(parsed.steps) <= 8 and all(step == step.strip() and step for step in parsed.steps)
    # What is wrapped more often than that is an attack, and need not come out bare.
    if parsed.answer_key and sum(map((parsed.answer or "").count, WRAPPINGS)) <= keys.MAX_WRAPPING:
        assert answer_key(parsed.answer_key) == parsed.answer_key
    question = parse_question(text)
    assert question is None or (question and question == question.strip())
    shown = safe_text(text)
    assert not shown.spans, "markup was read"
    assert all(character.isprintable() or character == "\n" for character in shown.plain)


def campaign(rows: int, seed: int) -> dict[str, float | int]:
    """Puts `rows` completions through parsing and the filter one by one, then as a shard through score and inspect."""
    source = completions(seed)
    texts = [next(source) for _ in range(rows)]
    slowest = 0.0
    for text in texts:
        started = time.process_time()  # the clock would count what else a machine does
        check(text)
        slowest = max(slowest, time.process_time() - started)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        scored, groups = _score(texts, Path(folder))
        score_seconds = time.perf_counter() - started
        started = time.perf_counter()
        _inspect(scored, groups)
        inspect_seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "characters": sum(map(len, texts)),
        "slowest_row_seconds": round(slowest, 3),
        "score_seconds": round(score_seconds, 1),
        "inspect_seconds": round(inspect_seconds, 1),
    }


def _score(texts: list[str], folder: Path) -> tuple[Path, int]:
    """The scored shard of `texts` in groups of five, and how many groups these are."""
    import pyarrow.parquet as pq

    from stages.parameters.score import ScoreParams
    from stages.score import score
    from tests import chain
    from tests.conftest import build_tiny_model, draw

    build_tiny_model(folder / "model")
    picture = str(draw(folder / "0.png", 0))
    template = chain.group(0, picture, [""] * 5, str(folder / "model"))
    groups = []
    for index in range(0, len(texts), 5):
        # Parquet stores UTF-8, and a decoder of tokens cannot write a lone surrogate.
        some = [text.encode("utf-8", "replace").decode() for text in texts[index : index + 5]]
        shared = {"group_index": index // 5, "group_id": f"{index // 5:016x}"}
        solvers = [row | {"completion": text} for row, text in zip(template[1:], some, strict=False)]
        groups.append([row | shared for row in (template[0], *solvers)])
    path = chain.write_shard(folder / "rollouts.parquet", groups, model={"name": str(folder / "model")})
    scored = score([path], ScoreParams(no_warmup=True)).path
    rewards = pq.read_table(scored, columns=["role", "reward"]).to_pylist()
    assert len(rewards) == len(texts) + len(groups)
    assert all(row["reward"] is not None and 0 <= row["reward"] <= 1 + 1e-9 for row in rewards)
    return scored, len(groups)


def _inspect(scored: Path, groups: int) -> None:
    """Has `inspect` show every trajectory."""
    from typer.testing import CliRunner

    from ireasoner_cli.app import app

    for arguments in ([], ["--worst", "--top", str(groups)], ["--best", "--json"]):
        shown = CliRunner().invoke(app, ["inspect", str(scored), *arguments])
        assert shown.exit_code == 0 and not shown.exception, shown.output[-500:]
        assert all(character.isprintable() or character == "\n" for character in shown.stdout)


def guided(seconds: int) -> None:
    """Lets atheris look for inputs that reach new code in the parsers, starting from some of ours."""
    import atheris

    for function in [each for module in (completions_read, keys, notation) for each in vars(module).values()]:
        if isinstance(function, FunctionType):
            atheris.instrument_func(function)
    atheris.enabled_hooks.add("RegEx")
    with tempfile.TemporaryDirectory() as corpus:
        source = completions(0)
        for index in range(300):
            text = next(source)
            if len(text) < 5000:
                (Path(corpus) / str(index)).write_text(text, encoding="utf-8", errors="replace")

        def once(data: bytes) -> None:
            started = time.perf_counter()
            check(data.decode("utf-8", "replace"))
            assert time.perf_counter() - started < SECONDS_A_ROW, "too slow"

        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=20000", "-timeout=5", corpus], once)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    if options.coverage:
        guided(options.seconds)
        return 0
    figures = campaign(options.rows, options.seed)
    print(json.dumps(figures))
    return 0 if figures["slowest_row_seconds"] < SECONDS_A_ROW else 1


if __name__ == "__main__":
    sys.exit(main())
