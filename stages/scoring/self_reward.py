"""What a policy thinks of its own answers: the last-token self-reward of rollouts, read off the model once more."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages.contract import SOLVER, Metadata
from stages.errors import UsageError
from stages.learning.contexts import Context, Contexts, processed
from stages.learning.last_token import LastToken
from stages.learning.learner import check_sampled
from stages.learning.model import PolicyModel
from stages.models.device import memory_bounded
from stages.models.finding import Model
from stages.models.spans import named
from stages.models.unused import unused_id
from stages.policy import Policy

COLUMNS = (
    *("role", "pass", "images", "images_sha256", "view", "prompt", "learn_prompt", "token_ids", "seed", "group_id"),
    "sample_index",
)


class SelfRewards:
    """r_s of rollouts, by the policy that they were sampled from."""

    def __init__(self, model: Model, policy: Policy, recorded: Metadata) -> None:
        """Loads `model`, with the Solver's adapter of `policy` on it.

        Raises UsageError of a policy that has not learned with a last token, DataError when the adapter is damaged or
        does not fit, EngineError when the model will not do.
        """
        own = policy.state.self_reward if policy.state else None
        if own is None or policy.state is None or policy.folder is None:
            raise UsageError(
                "--vote self-reward asks the policy what it thinks of its answers, and this one has not learned to "
                "say: update with --loss-aux last-token first"
            )
        self._last = LastToken(unused_id(model, own.token), own.scale, own.reference)
        self._ends = set(model.end_of_turn)
        self._model, self._vocabulary = model, len(model.embedding_table())
        self._contexts = Contexts(recorded)
        self._policy = PolicyModel(model, seed=0, lora=policy.state.lora)
        self._policy.set_adapter(SOLVER, self._policy.read_adapter(SOLVER, policy.folder / SOLVER))

    def of(self, block: pa.Table) -> np.ndarray:
        """r_s of each row [rows], float64; NaN of the Proposer's, of those without tokens and of those that were cut
        off. Raises DataError for tokens that the model does not have, and for pictures that are gone or have changed;
        EngineError when the device's memory runs out."""
        found = np.full(len(block), np.nan)
        behind: dict[Context, list[int]] = {}
        rows: list[dict[str, Any]] = block.select(COLUMNS).to_pylist()
        for place, row in enumerate(rows):
            if row["role"] == SOLVER and row["token_ids"] and row["token_ids"][-1] in self._ends:
                check_sampled(self._model, row["token_ids"], self._vocabulary, named(row))
                behind.setdefault(self._contexts.of(row), []).append(place)
        with memory_bounded("stop what else runs on it, or use --vote count"):
            for context, places in behind.items():
                found[places] = list(self._read(context, [rows[place] for place in places]))
        return found

    @torch.no_grad()
    def _read(self, context: Context, rows: list[dict[str, Any]]) -> Iterator[float]:
        prompt = processed(self._policy, context, rows[0])
        completions = [torch.tensor(row["token_ids"]) for row in rows]
        head = self._policy.head
        for states in self._policy.token_states(prompt, completions, SOLVER, self._policy.depth):
            yield float(self._last.self_reward(head.logits(states[-1:]).log_softmax(-1)[0, self._last.token]))
