"""`rollout` against bare vLLM on one model: python -m tests.benchmarks.engine MODEL GROUPS REPETITIONS, as JSON."""

import json
import sys
from pathlib import Path

from tests.benchmarks.stages import race_rollout

if __name__ == "__main__":
    rows = race_rollout(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[1]).resolve())
    print(json.dumps(rows))
