"""Where a model folder stands on the chart world: `python -m ireasoner_cli.demo.evaluate MODEL`.

Prints accuracy on held-out questions (greedy, sampled at temperature 1, and by the majority of N samples), in
all, by level and by type; how many sampled steps are true; how many sampled proposals the world can read and answer.
"""

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from ireasoner_cli.demo import world
from ireasoner_cli.demo.checker import check_completion
from ireasoner_cli.demo.pretrain import Collator, read_prompt
from stages.models.finding import VISION_TOKENS
from stages.models.loading import prepare_transformers
from stages.parsing import parse_completion, parse_question

prepare_transformers()

from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration  # noqa: E402


class Speaker:
    """A model that answers about charts, many at once."""

    def __init__(self, folder: Path) -> None:
        processor = AutoProcessor.from_pretrained(folder)
        self.collate = Collator(processor)
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.never = self.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))

    def say(self, turns: Sequence[tuple[world.Chart, str]], sample: bool, batch: int = 256) -> list[str]:
        """What the model says to each (chart, user text), greedily or sampled at temperature 1."""
        texts = []
        for start in range(0, len(turns), batch):
            pixels, grid = self.collate.pixels([world.render(chart) for chart, _ in turns[start : start + batch]])
            image_tokens = int(grid[0].prod()) // self.collate.images.merge_size**2
            prompts = [self.collate.prompt(user, image_tokens) for _, user in turns[start : start + batch]]
            inputs = self.tokenizer(prompts, padding=True, return_tensors="pt")
            said = self.model.generate(
                **inputs,
                pixel_values=pixels,
                image_grid_thw=grid,
                mm_token_type_ids=(inputs["input_ids"] == self.collate.image_id).int(),
                do_sample=sample,
                temperature=1.0 if sample else None,
                top_p=None,
                top_k=0 if sample else None,
                suppress_tokens=self.never,
                max_new_tokens=160,
            )
            new = said[:, inputs["input_ids"].shape[1] :]
            texts += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts


def evaluate(speaker: Speaker, questions: int, samples: int, seed: int) -> dict[str, object]:
    """The numbers described at the top of this file."""
    torch.manual_seed(seed)
    asked = list(world.held_out_questions(questions, seed, (*world.HOME, *world.ABROAD)))
    prompt = read_prompt("solver")
    turns = [(chart, prompt.replace("{question}", question.text)) for chart, question in asked]
    greedy = speaker.say(turns, sample=False)
    sampled = [speaker.say(turns, sample=True) for _ in range(samples)]
    right: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    verdicts: Counter[bool | None] = Counter()
    for index, (chart, question) in enumerate(asked):
        said = [texts[index] for texts in sampled]
        answers = [parse_completion(text).answer for text in said]
        good = question.solution.answers
        # Ties of the majority go to the answer that was sampled first, as in the rewards.
        parsed = [answer for answer in answers if answer is not None]
        majority = Counter(parsed).most_common(1)[0][0] if parsed else None
        for kind in ("all", f"level {chart.level}", question.ask.kind):
            right[kind]["greedy"].append(parse_completion(greedy[index]).answer in good)
            right[kind]["sampled"].append(sum(answer in good for answer in answers) / samples)
            right[kind]["majority"].append(majority in good)
        for text in said:
            verdicts.update(check_completion(text, chart))
    accuracy = {
        kind: {"count": len(by["greedy"])} | {name: round(sum(v) / len(v), 3) for name, v in by.items()}
        for kind, by in sorted(right.items())
    }
    steps = {str(verdict): count for verdict, count in verdicts.items()}
    return {
        "accuracy": accuracy,
        "sampled_steps": steps,
        "proposer": evaluate_proposer(speaker, questions, seed),
    }


def evaluate_proposer(speaker: Speaker, count: int, seed: int) -> dict[str, object]:
    """Of `count` sampled proposals: the shares that parse, are in the world's words, and can be answered."""
    rng = random.Random(f"proposer {seed}")
    charts = [world.draw_chart(rng, rng.choice(world.HOME)) for _ in range(count)]
    proposals = speaker.say([(chart, read_prompt("proposer")) for chart in charts], sample=True)
    parsed = understood = answerable = 0
    texts, kinds = set(), Counter[str]()
    for chart, proposal in zip(charts, proposals, strict=True):
        question = parse_question(proposal)
        if question is None:
            continue
        parsed += 1
        texts.add(question)
        ask = world.understand(question)
        if ask is not None:
            understood += 1
            kinds[ask.kind] += 1
            answerable += world.solve(chart, ask) is not None
    return {
        "count": count,
        "parsed": round(parsed / count, 3),
        "understood": round(understood / count, 3),
        "answerable": round(answerable / count, 3),
        "distinct": len(texts),
        "kinds": dict(kinds.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = evaluate(Speaker(arguments.model), arguments.questions, arguments.samples, arguments.seed)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
