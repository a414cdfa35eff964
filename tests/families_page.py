"""The table of docs/models.md: what `support` says of each family, on a GPU and on a CPU.

python -m tests.families_page docs/models.md
"""

import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from unittest import mock

from stages.models import support
from stages.models.finding import Model, find_model
from stages.models.vllm_classes import Vllm, installed_vllm
from tests.families import FAMILIES, build

# Of each family its name and a published checkpoint.
PUBLISHED = {
    "qwen2_5_vl": ("Qwen2.5-VL", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen2_vl": ("Qwen2-VL", "Qwen/Qwen2-VL-7B-Instruct"),
    "qwen3_vl": ("Qwen3-VL", "Qwen/Qwen3-VL-8B-Instruct"),
    "qwen3_vl_moe": ("Qwen3-VL, experts", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
    "qwen3_5": ("Qwen3.5", "Qwen/Qwen3.5-9B"),
    "qwen3_5_moe": ("Qwen3.5, experts", "Qwen/Qwen3.5-35B-A3B"),
    "internvl": ("InternVL 3", "OpenGVLab/InternVL3-8B-hf"),
    "internvl3_5": ("InternVL 3.5", "OpenGVLab/InternVL3_5-8B-HF"),
    "gemma3": ("Gemma 3", "google/gemma-3-4b-it"),
    "gemma4": ("Gemma 4, images both ways", "google/gemma-4-31B-it"),
    "gemma4_causal": ("Gemma 4, images one way", "google/gemma-4-E4B-it"),
    "glm4v": ("GLM-4.1V", "zai-org/GLM-4.1V-9B-Thinking"),
    "glm4v_moe": ("GLM-4.5V", "zai-org/GLM-4.5V"),
    "mistral3": ("Mistral Small 3.1", "mistralai/Mistral-Small-3.1-24B-Instruct-2503"),
    "llava": ("LLaVA 1.5", "llava-hf/llava-1.5-7b-hf"),
    "llava_next": ("LLaVA-NeXT", "llava-hf/llava-v1.6-mistral-7b-hf"),
    "llava_onevision": ("LLaVA-OneVision", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    "idefics3": ("Idefics 3", "HuggingFaceM4/Idefics3-8B-Llama3"),
    "smolvlm": ("SmolVLM 2", "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
    "lfm2_vl": ("LFM2-VL", "LiquidAI/LFM2-VL-1.6B"),
    "minicpmv4_6": ("MiniCPM-V 4.6", "openbmb/MiniCPM-V-4.6"),
    "paligemma": ("PaliGemma", "google/paligemma2-3b-mix-224"),
}
HEAD = """\
| family | `model_type` | for example | vLLM, GPU | vLLM, CPU | `update` |
| --- | --- | --- | --- | --- | --- |
"""


def row(name: str, model: Model) -> str:
    family, example = PUBLISHED[name]
    cells = [family, f"`{model.config['model_type']}`", f"`{example}`"]
    vllm = installed_vllm()
    for cpu in (False, True):
        here = Vllm(vllm.version, cpu) if vllm else None
        with mock.patch.object(support, "installed_vllm", lambda here=here: here):
            found = support.support(model)
        cells.append("no" if found.sampling else "not policies" if found.adapters else "yes")
    return f"| {' | '.join([*cells, 'no' if found.learning else 'yes'])} |\n"


def versions() -> str:
    vllm = installed_vllm()
    others = (f"{name} {metadata.version(name.lower())}" for name in ("transformers", "PEFT"))
    return ", ".join([f"vLLM {vllm.version if vllm else '–'}", *others])


def main(page: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, find_model(str(build(name, Path(folder) / name)))) for name in PUBLISHED]
    text = page.read_text(encoding="utf-8")
    found = f"<!-- families -->\nWith {versions()}:\n\n{HEAD}{''.join(rows)}<!-- end -->"
    page.write_text(re.sub(r"<!-- families -->.*?<!-- end -->", lambda _: found, text, flags=re.S), encoding="utf-8")


assert PUBLISHED.keys() == FAMILIES.keys()

if __name__ == "__main__":
    main(Path(sys.argv[1]))
