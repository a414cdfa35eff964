"""What each stage can be told: a dataclass a stage, in a file of its own, whose fields are its options.

A field is the one place of an option: its name, type, default, bounds and help. The command line, `ireasoner.toml`, the
variables and the generated pages follow from it, and so does what a shard records. Imports nothing that takes time, for
`--help` reads all of it.
"""

from stages.parameters.call import Call
from stages.parameters.option import Option, from_recorded, option, option_of, recorded

__all__ = ["Call", "Option", "from_recorded", "option", "option_of", "recorded"]
