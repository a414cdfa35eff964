"""The README.md of an exported checkpoint, from its lineage."""

import json
import re
from collections.abc import Iterator

from stages.contract import SOLVER, STAGES, Metadata
from stages.policy import PolicyState

_CARD = """\
---
{front}
---

# {name}

{base} after {step:,} training steps of self-play, without a label: the model asked itself questions about unlabelled
images and was rewarded for agreeing with itself, on the answer and on each step of the reasoning. Method: iReasoner
([arXiv 2601.05877](https://arxiv.org/abs/2601.05877)), with `ireasoner` {version}. The Solver's LoRA adapter is merged
into the weights; everything else is the base model's.

| | |
| --- | --- |
| base model | {base} |
| revision | {revision} |
| base model's fingerprint | `{model_sha256}` |
| policy | step {step}, SHA-256 `{policy_sha256}` |
| Solver updates | {updates:,} |
| seed of the last iteration | {seed} |

## Using it

It loads wherever the base model does.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}", dtype="auto")
processor = AutoProcessor.from_pretrained("{name}")
```

```
vllm serve {name}
python -m lmms_eval --model qwen2_5_vl --model_args pretrained={name} --tasks chartqa
ireasoner eval benchmark.parquet --model {name}
```

## How it was made

The parameters of the last iteration, stage by stage, as the shards record them.

{stages}
"""


def model_card(lineage: Metadata, state: PolicyState, name: str) -> str:
    """Markdown. What the lineage holds may come from elsewhere, and stays text: quoted in the YAML and the code
    blocks, stripped of markup elsewhere."""
    front = ["library_name: transformers", "pipeline_tag: image-text-to-text", "tags:", "- ireasoner", "- self-play"]
    if lineage.model.revision:  # a model of the hub, not a folder
        front.append(f"base_model: {json.dumps(lineage.model.name)}")
    return _CARD.format(
        front="\n".join(front),
        name=_plain(name),
        base=_plain(lineage.model.name),
        revision=_plain(lineage.model.revision or "none: a folder of its own"),
        model_sha256=_plain(lineage.model.sha256 or "unknown"),
        policy_sha256=_plain(lineage.policy.sha256 or "unknown"),
        step=lineage.policy.step,
        version=_plain(lineage.version),
        updates=state.roles[SOLVER].updates,
        seed=lineage.seed,
        stages="\n\n".join(_stages(state.lineage)),
    )


def _stages(lineage: Metadata) -> Iterator[str]:
    for stage in STAGES:
        if params := lineage.stage_params(stage):
            own = {name: value for name, value in params.items() if name not in STAGES}
            block = json.dumps(own, indent=2, ensure_ascii=False)
            fence = "`" * (max(map(len, re.findall("`+", block)), default=0) + 3)
            yield f"`{stage}`\n\n{fence}json\n{block}\n{fence}"


def _plain(text: str) -> str:
    return re.sub(r"[^\w\s./:@+-]", "", text).replace("\n", " ")
