"""Train the demonstration checkpoint from scratch: `python -m ireasoner_cli.demo.pretrain OUT`.

Plain supervised learning on the chart world, float32. The data of a step come from the seed and the step's
number alone and the state is saved every few hundred steps, so a run that was killed continues to the very
same weights. Progress goes to stderr.
"""

import argparse
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch.nn import functional

from ireasoner_cli.demo import architecture, drawing, world
from ireasoner_cli.demo.architecture import Sizes
from stages.images.views import seen

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum: how many steps, which mix of questions, how careless the teacher."""

    steps: int
    mix: dict[world.Kind, int]
    levels: tuple[int, ...]
    proposals: float = 0.0  # share of the examples that teach the Proposer
    carelessness: float = 0.0  # probability that the teacher misreads a height by one unit


# Colours are learned only where they are most of what there is to learn: first, and every bar at once. Among
# other questions the few tokens that name a colour drown, and names stay at chance for thousands of steps.
NAMING: dict[world.Kind, int] = {"colours": 6, "total": 2}
# The careless teacher at the end makes the model as unsure as its teacher is: the most likely reading of a bar
# stays the true one, while single samples err as often as the teacher does. Self-play has that noise to remove.
# A level that is there twice is drawn twice as often.
LEVELS = (1, 2, 2, 3, 3, 4)
CURRICULUM = (
    Phase(500, NAMING, LEVELS),
    Phase(1300, world.MIX, LEVELS, proposals=0.15),
    Phase(300, world.MIX, LEVELS, proposals=0.15, carelessness=0.15),
)
DEFAULT_SIZES = Sizes()
BATCH = 64
CHUNK = 16  # examples of about the same length that pass through the model together
LEARNING_RATE = 3e-3
WARMUP = 100  # steps until the learning rate is reached
COOLDOWN = 200  # last steps, over which it falls to zero
STRESS = 8  # how often a word counts that is stressed
SAVE_EVERY = 100

# Where in a completion the words are that count STRESS times   [start, end)
Stressed: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]


def nothing(completion: str) -> Sequence[tuple[int, int]]:
    """No word counts more than another."""
    return ()


@dataclass(frozen=True)
class Example:
    """One turn of a conversation about a chart, as it is or through a view of it (stages/images/views.py)."""

    chart: world.Chart
    kind: str
    user: str
    completion: str
    view: str | None = None

    @property
    def picture(self) -> Image.Image:
        picture = world.render(self.chart)
        return picture if self.view is None else seen(picture, self.view, 0)


@dataclass(frozen=True)
class Batch:
    """B examples in S positions, padded on the right, every image of the same size.

    pixels: (B·patches, values of a patch); grid: (B, 3); ids: (B, S); targets: (B, S), the token that follows
    each position, −100 where nothing is learned; times: (B, S), how often it counts; types: (B, S), 1 where an image
    token stands, else 0.
    """

    pixels: torch.Tensor
    grid: torch.Tensor
    ids: torch.Tensor
    types: torch.Tensor
    targets: torch.Tensor
    times: torch.Tensor

    @property
    def counts(self) -> torch.Tensor:
        """How often all that is learned of each example counts   (B,)"""
        return (self.times * (self.targets != -100)).sum(1)


def read_prompt(role: str) -> str:
    """The prompt of the role "solver" or "proposer", as it is sent."""
    return (PROMPTS / f"{role}.txt").read_text(encoding="utf-8").strip()


def draw_example(rng: random.Random, phase: Phase) -> Example:
    """An example of a phase, on a chart that is not held out, of any level that the phase has."""
    chart = world.draw_chart(rng, rng.choice(phase.levels))
    question = world.draw_question(rng, chart, phase.mix)
    if rng.random() < phase.proposals:
        return Example(chart, "proposal", read_prompt("proposer"), world.proposal(question))
    seen = world.misread(chart, phase.carelessness, rng)
    solution = world.solve(seen, question.ask) or question.solution
    user = read_prompt("solver").replace("{question}", question.text)
    return Example(chart, question.ask.kind, user, solution.completion)


class Collator:
    """Turns examples into a batch, exactly as the processor would, but without its cost for every image."""

    def __init__(self, processor: "Qwen2_5_VLProcessor", stressed: Stressed = nothing) -> None:
        self.stressed = stressed
        self.images = processor.image_processor
        self.tokenizer = processor.tokenizer
        self.image_id = processor.image_token_id
        content = [{"type": "image"}, {"type": "text", "text": "{text}"}]
        turn: Any = {"role": "user", "content": content}
        self.template = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)

    def pixels(self, pictures: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (B·patches, values of a patch) and grid (B, 3) of pictures of SIZE × SIZE pixels."""
        raw = b"".join(picture.tobytes() for picture in pictures)
        shape = (len(pictures), drawing.SIZE, drawing.SIZE, 3)
        stacked = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(shape).permute(0, 3, 1, 2)
        stacked = self.images.rescale_and_normalize(
            stacked, True, 1 / 255, True, self.images.image_mean, self.images.image_std
        )
        patches, height, width = self.images.patchify(stacked, 14, 2, 2)
        grid = torch.tensor([[1, height, width]] * len(pictures))
        return patches.reshape(-1, patches.shape[-1]), grid

    def prompt(self, user: str, image_tokens: int) -> str:
        """The whole conversation up to where the model speaks."""
        pad = "<|image_pad|>"
        return self.template.replace("{text}", user).replace(pad, pad * image_tokens)

    def __call__(self, examples: Sequence[Example]) -> Batch:
        pixels, grid = self.pixels([example.picture for example in examples])
        image_tokens = int(grid[0].prod()) // self.images.merge_size**2
        prompts = [self.prompt(example.user, image_tokens) for example in examples]
        completions = [f"{example.completion}<|im_end|>" for example in examples]
        whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        starts = [len(ids) for ids in self.tokenizer(prompts)["input_ids"]]
        encoded = self.tokenizer(whole, return_offsets_mapping=True)
        rows = [torch.tensor(ids) for ids in encoded["input_ids"]]
        pad = self.tokenizer.pad_token_id
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        targets, times = torch.full_like(ids, -100), torch.ones_like(ids)
        for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
            targets[index, start - 1 : len(row) - 1] = row[start:]
            places = torch.tensor(encoded["offset_mapping"][index][start:]) - len(prompts[index])
            for begin, end in self.stressed(examples[index].completion):
                inside = (places[:, 1] > begin) & (places[:, 0] < end)
                times[index, start - 1 : len(row) - 1][inside] = STRESS
        return Batch(pixels, grid, ids, (ids == self.image_id).int(), targets, times)


def logits_and_targets(model: "Qwen2_5_VLForConditionalGeneration", batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (T, vocabulary) and targets (T,) of the T positions that are learned from, each as often as it counts."""
    # The image comes first and has one size: all rows share their rotary positions.
    positions, _ = model.model.get_rope_index(
        batch.ids[:1], mm_token_type_ids=batch.types[:1], image_grid_thw=batch.grid[:1]
    )
    hidden = model.model(
        input_ids=batch.ids,
        pixel_values=batch.pixels,
        image_grid_thw=batch.grid,
        mm_token_type_ids=batch.types,
        position_ids=positions.expand(3, *batch.ids.shape),
        use_cache=False,
    ).last_hidden_state
    learned = batch.targets != -100
    times = batch.times[learned]
    return (
        model.lm_head(hidden[learned]).repeat_interleave(times, 0),
        batch.targets[learned].repeat_interleave(times),
    )


def tokenizer_texts(seed: int) -> list[str]:
    """What the tokenizer learns its merges from: the world's own words, at the levels that are trained on."""
    rng = random.Random(f"tokenizer {seed}")
    texts = [read_prompt("solver"), read_prompt("proposer"), "system\n", "user\n", "assistant\n"] * 100
    for level in (1, 2, 3, 4):
        for _ in range(2000):
            question = world.draw_question(rng, world.draw_chart(rng, level))
            texts += [question.text, question.solution.completion, world.proposal(question)]
    return texts


@dataclass(frozen=True)
class Lesson:
    """What a checkpoint is taught: phases, and how an example of one is drawn; from which model folder it starts, None
    for a fresh one; how fast it learns, and which words count more."""

    curriculum: tuple[Phase, ...] = CURRICULUM
    draw: Callable[[random.Random, Phase], Example] = draw_example
    start: Path | None = None
    rate: float = LEARNING_RATE
    stressed: Stressed = nothing

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.curriculum)

    def phase_at(self, step: int) -> Phase:
        """The phase of the curriculum that a step belongs to."""
        for phase in self.curriculum:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.curriculum[-1]

    def learning_rate(self, step: int) -> float:
        """Warm up, stay, cool down."""
        return self.rate * min(1.0, (step + 1) / WARMUP, (self.steps - step) / COOLDOWN)


DEMONSTRATION = Lesson()


class Progress:
    """Says on stderr now and then how the training goes."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.losses: list[float] = []
        self.perfect: dict[str, list[bool]] = defaultdict(list)

    def note(self, examples: Sequence[Example], batch: Batch, right: torch.Tensor) -> None:
        """Remember which completions were predicted without a fault, given `right` for each learned token."""
        for example, tokens in zip(examples, right.split(batch.counts.tolist()), strict=True):
            self.perfect[example.kind].append(bool(tokens.all()))

    def report(self, step: int) -> None:
        """One line, and forget."""
        loss = sum(self.losses) / len(self.losses)
        shares = (f"{kind} {sum(of) / len(of):.2f}" for kind, of in sorted(self.perfect.items()))
        seconds = time.monotonic() - self.started
        print(f"step {step}  {seconds:.0f} s  loss {loss:.4f}  {'  '.join(shares)}", file=sys.stderr, flush=True)
        self.losses.clear()
        self.perfect.clear()


def train(
    out: Path, seed: int = 0, threads: int = 2, sizes: Sizes = DEFAULT_SIZES, lesson: Lesson = DEMONSTRATION
) -> None:
    """Train through the lesson and save the model folder `out`, in which a state file survives a kill. `sizes` are
    those of a fresh model."""
    if lesson.start is None:
        tokenizer = architecture.build_tokenizer(tokenizer_texts(seed))
        processor = architecture.build_processor(tokenizer, sizes)
        model = architecture.build_model(architecture.build_config(tokenizer, sizes), seed)
    else:
        processor, model = architecture.load_folder(lesson.start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lesson.rate, betas=(0.9, 0.98), weight_decay=0.01)
    collate = Collator(processor, lesson.stressed)
    # A thread for each chunk in flight is faster than several for each matrix: these are small.
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(threads)
    progress = Progress()
    out.mkdir(parents=True, exist_ok=True)
    state_path = out / ".training-state.pt"
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"continuing after step {first}", file=sys.stderr)
    model.train()
    for step in range(first, lesson.steps):
        for group in optimizer.param_groups:
            group["lr"] = lesson.learning_rate(step)
        rng = random.Random(f"step {seed} {step}")
        examples = [lesson.draw(rng, lesson.phase_at(step)) for _ in range(BATCH)]
        learn(model, optimizer, collate, workers, examples, progress)
        if (step + 1) % 50 == 0:
            progress.report(step + 1)
        if (step + 1) % SAVE_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            unfinished = state_path.with_suffix(".partial")
            torch.save(state, unfinished)
            os.replace(unfinished, state_path)
    architecture.save_folder(out, model.eval(), processor, PROMPTS)
    state_path.unlink(missing_ok=True)


def learn(
    model: "Qwen2_5_VLForConditionalGeneration",
    optimizer: torch.optim.Optimizer,
    collate: Collator,
    workers: Executor,
    examples: Sequence[Example],
    progress: Progress,
) -> None:
    """One optimizer step on the mean cross-entropy over the completions' tokens.

    Examples of about the same length form chunks that the workers share out. Their gradients are added up in
    the order of the chunks, so the weights do not depend on how many workers there are.
    """
    ordered = sorted(examples, key=lambda example: len(example.completion))
    chunks = [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
    batches = [collate(chunk) for chunk in chunks]
    tokens = sum(int(batch.counts.sum()) for batch in batches)
    weights = list(model.parameters())

    def differentiate(batch: Batch) -> tuple[float, torch.Tensor, Sequence[torch.Tensor]]:
        logits, targets = logits_and_targets(model, batch)
        loss = functional.cross_entropy(logits, targets, reduction="sum") / tokens
        return loss.item(), logits.argmax(-1) == targets, torch.autograd.grad(loss, weights)

    loss = 0.0
    optimizer.zero_grad()
    for chunk, batch, done in zip(chunks, batches, workers.map(differentiate, batches), strict=True):
        share, right, gradients = done
        loss += share
        progress.note(chunk, batch, right)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
    progress.losses.append(loss)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demonstration checkpoint from scratch.")
    parser.add_argument("out", type=Path, help="the model folder to write; an interrupted one is continued")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    train(arguments.out, arguments.seed, arguments.threads)


if __name__ == "__main__":
    main()
