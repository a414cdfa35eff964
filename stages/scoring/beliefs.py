"""What the base model makes of rollouts, token by token, read off it once more."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages.errors import EngineError
from stages.learning.contexts import Context
from stages.learning.loss import token_logprobs
from stages.learning.packing import TOKENS_PER_PASS, packed
from stages.learning.prefix import Prefixes
from stages.learning.rereading import COLUMNS, Reader
from stages.models.device import memory_bounded


class Beliefs:
    """log π_ref of the tokens of rollouts, behind what they are learned behind."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def of(self, block: pa.Table, places: np.ndarray) -> list[np.ndarray]:
        """[L_i] float32 of each of a block's rows at `places` [R], which have tokens. Raises DataError for tokens that
        the model does not have, and for pictures that are gone or have changed; EngineError for numbers that are not
        finite, and when the device's memory runs out."""
        rows: list[dict[str, Any]] = block.select(COLUMNS).take(places).to_pylist()
        found: dict[int, np.ndarray] = {}
        with memory_bounded("stop what else runs on it, or use another --credit"):
            for context, own in self._reader.behind(dict(enumerate(rows))).items():
                found |= zip(own, self._read(context, [rows[place] for place in own]), strict=True)
        for place, logprobs in found.items():
            if not np.isfinite(logprobs).all():
                raise EngineError(f"group {rows[place]['group_id']}: its log-probabilities are not finite")
        return [found[place] for place in range(len(rows))]

    @torch.no_grad()
    def _read(self, context: Context, rows: list[dict[str, Any]]) -> Iterator[np.ndarray]:
        base, device = self._reader.policy, self._reader.policy.device
        prompt = self._reader.prompt(context, rows[0])
        prefix = Prefixes(base.run_prompts([prompt]), [1])
        completions = [torch.tensor(row["token_ids"]) for row in rows]
        for some in packed(completions, len, TOKENS_PER_PASS[device.type]):
            states = base.states([prompt], prefix, [some], None)
            logprobs = token_logprobs(states, torch.cat(some).to(device), base.head)
            yield from (own.float().cpu().numpy() for own in logprobs.split([len(tokens) for tokens in some]))
