"""What is read of a scored shard, by what is learned from it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from stages import shards
from stages.contract import CREDIT, PAIRS, SCORED
from stages.errors import UsageError
from stages.parameters.update import UpdateParams

SELECTED = {"dpo": "pairs of the Solver's rows", "sft": "the Solver's rows that are selected"}
CREDITED = ("policy-gradient", "clip")  # losses that an advantage enters, token by token


def columns(params: UpdateParams, inputs: Sequence[Path]) -> pa.Schema:
    """What is read of a scored shard. Raises as `columns_among` does."""
    file = shards.input_files(inputs)[0]
    return columns_among(params, shards.schema_of(file).names, str(file))


def columns_among(params: UpdateParams, there: Collection[str], where: str) -> pa.Schema:
    """What is read of the columns that are `there`. Raises UsageError for preferences where there are none, for losses
    that the Proposer's rows cannot have, and for credit by step where it is no advantage."""
    if params.loss in SELECTED and params.roles != "solver":
        raise UsageError(f"--loss {params.loss} learns from {SELECTED[params.loss]}; say --roles solver")
    if {*CREDIT.names} <= {*there} and params.roles != "proposer":
        if params.loss not in CREDITED:
            raise UsageError(
                f"{where}: has credit by step, which --loss {params.loss} cannot take; score without --credit"
            )
        if params.advantage not in ("ema", "mean"):
            raise UsageError(
                f"{where}: its steps' credit is the Solver's advantage, less the group's mean; --advantage "
                f"{params.advantage} would be another: leave it out, or score without --credit"
            )
        return pa.schema([*SCORED, *CREDIT])
    if params.loss != "dpo":
        return SCORED
    if params.sampling_temperature:
        raise UsageError("--sampling-temperature is for a loss that π/μ enters; leave it out with --loss dpo")
    if not {*PAIRS.names} <= {*there}:
        raise UsageError(f"{where}: has no pairs to learn from; `score --pairs` makes them")
    return pa.schema([*SCORED, *PAIRS])
