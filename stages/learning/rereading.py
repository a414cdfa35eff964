"""A model that reads rollouts once more, behind what they were sampled or are learned behind."""

from collections.abc import Mapping
from typing import Any

from stages.contract import SOLVER, Metadata, Role
from stages.learning.contexts import Context, Contexts, processed
from stages.learning.learner import check_sampled
from stages.learning.model import PolicyModel, PromptInputs
from stages.models.finding import Model
from stages.models.spans import named
from stages.policy import DEFAULT_LORA, Policy

# What it has to know of a row.
COLUMNS = (
    *("group_id", "role", "pass", "sample_index", "images", "images_sha256", "view", "seed", "prompt", "learn_prompt"),
    *("completion", "token_ids", "reject_reason"),
)


class Reader:
    """π_ref and, where there is a policy, π of the Solver. `role` is whose adapter that is, None for the base model."""

    def __init__(self, model: Model, policy: Policy, recorded: Metadata) -> None:
        """Loads `model`, with the Solver's adapter of `policy` on it. `recorded` is of the rollouts.

        Raises EngineError when the model will not do, DataError when the adapter is damaged or does not fit.
        """
        self.model = model
        self.contexts = Contexts(recorded)
        table = model.embedding_table()
        self._vocabulary, self.width = len(table), table.width
        self.policy = PolicyModel(model, seed=0, lora=policy.state.lora if policy.state else DEFAULT_LORA)
        self.role: Role | None = SOLVER if policy.folder else None
        if policy.folder:
            self.policy.set_adapter(SOLVER, self.policy.read_adapter(SOLVER, policy.folder / SOLVER))

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises DataError for tokens that the model does not have."""
        check_sampled(self.model, row["token_ids"], self._vocabulary, named(row))

    def behind(self, rows: Mapping[int, Mapping[str, Any]]) -> dict[Context, list[int]]:
        """The numbers of `rows` by the context that they are learned behind. Raises as `check` does."""
        found: dict[Context, list[int]] = {}
        for number, row in rows.items():
            self.check(row)
            found.setdefault(self.contexts.of(row), []).append(number)
        return found

    def prompt(self, context: Context, row: Mapping[str, Any]) -> PromptInputs:
        """The `context` of `row` as the model takes it. Raises as `processed` does."""
        return processed(self.policy, context, row)
