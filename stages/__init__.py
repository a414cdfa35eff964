"""The method: the Parquet contract, shards on disk, the five stages, rewards, sampling and learning.

Read it in this order: `contract` (columns and metadata), `shards` (Parquet on disk),
then the stages `propose`, `rollout`, `score`, `update` and `evaluate`, each of which reads top to bottom.
"""

__version__ = "0.1.0"
