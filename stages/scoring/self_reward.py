"""What a policy thinks of its own answers: the last-token self-reward of rollouts, read off the model once more."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages.contract import SOLVER
from stages.errors import UsageError
from stages.learning.contexts import Context
from stages.learning.last_token import LastToken
from stages.learning.rereading import COLUMNS, Reader
from stages.models.device import memory_bounded
from stages.models.unused import unused_id
from stages.policy import Policy, SelfReward


def learned(policy: Policy) -> SelfReward:
    """The self-reward that the policy has. Raises UsageError of one that has not learned with a last token."""
    own = policy.state.self_reward if policy.state else None
    if own is None:
        raise UsageError(
            "--vote self-reward asks the policy what it thinks of its answers, and this one has not learned to say: "
            "update with --loss-aux last-token first"
        )
    return own


class SelfRewards:
    """r_s of rollouts, by the policy that they were sampled from."""

    def __init__(self, reader: Reader, own: SelfReward) -> None:
        """Raises UsageError for a last token that stands for something else."""
        self._reader = reader
        self._last = LastToken(unused_id(reader.model, own.token), own.scale, own.reference)
        self._ends = set(reader.model.end_of_turn)

    def of(self, block: pa.Table) -> np.ndarray:
        """r_s of each row [rows], float64; NaN of the Proposer's, of those without tokens and of those that were cut
        off. Raises DataError for tokens that the model does not have, and for pictures that are gone or have changed;
        EngineError when the device's memory runs out."""
        found = np.full(len(block), np.nan)
        rows: list[dict[str, Any]] = block.select(COLUMNS).to_pylist()
        ended = {
            place: row
            for place, row in enumerate(rows)
            if row["role"] == SOLVER and row["token_ids"] and row["token_ids"][-1] in self._ends
        }
        with memory_bounded("stop what else runs on it, or use --vote count"):
            for context, places in self._reader.behind(ended).items():
                found[places] = list(self._read(context, [rows[place] for place in places]))
        return found

    @torch.no_grad()
    def _read(self, context: Context, rows: list[dict[str, Any]]) -> Iterator[float]:
        policy, prompt = self._reader.policy, self._reader.prompt(context, rows[0])
        completions = [torch.tensor(row["token_ids"]) for row in rows]
        for states in policy.token_states(prompt, completions, SOLVER, policy.depth):
            yield float(self._last.self_reward(policy.head.logits(states[-1:]).log_softmax(-1)[0, self._last.token]))
