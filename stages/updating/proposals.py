"""Whether the proposals about an image come into one step of the Proposer, where they are to be compared."""

from stages.errors import UsageError
from stages.learning.advantages import COMPARING
from stages.parameters.update import UpdateParams


def check_compared(params: UpdateParams, per_image: object) -> None:
    """Raises UsageError where the Proposer's `per_image` proposals about an image are to be compared with one another,
    and do not come into one step together."""
    if params.roles == "solver" or params.advantage not in COMPARING or not isinstance(per_image, int):
        return
    if per_image > 1 and (params.groups_per_step % per_image or params.proposer_every != 1):
        raise UsageError(
            f"--advantage {params.advantage} compares the {per_image} proposals about an image, which must come into "
            f"one step: use --proposer-every 1 and a multiple of {per_image} as --groups-per-step, or --roles solver"
        )
