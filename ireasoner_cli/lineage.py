"""How a file was made, stage by stage, for `inspect`, the report and trackers alike."""

from typing import Any

from stages.contract import STAGES, Metadata


def settings(*records: Metadata | None) -> dict[str, dict[str, Any]]:
    """Each stage's own parameters, in the order of the stages; of what several of `records` know, the last counts."""
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        for record in records:
            if record and (params := record.stage_params(stage)):
                found[stage] = {name: value for name, value in params.items() if name not in STAGES}
    return found
