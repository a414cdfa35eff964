"""One step of the learner in a process of its own: python -m ireasoner_cli.doctor.deep.reference MODEL OUT."""

import json
import sys
from pathlib import Path

from ireasoner_cli.doctor.deep.learner import learned
from stages.models.finding import find_model

if __name__ == "__main__":
    out = Path(sys.argv[2])
    _, row = learned(find_model(sys.argv[1]), out)
    (out / "row.json").write_text(json.dumps({name: row[name] for name in ("kl", "grad_norm")}))
