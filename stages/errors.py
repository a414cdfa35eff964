"""The errors a stage raises on purpose, each with the exit code the command line gives it."""


def why(error: Exception) -> str:
    """What the system says of `error`, without a number and a path; of one that is not the system's, what it says."""
    return getattr(error, "strerror", None) or str(error)


def first_line(error: BaseException) -> str:
    """Of what a library says of `error`, which may be pages; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class StageError(Exception):
    """A failure with a message for the person at the terminal: what is wrong, where, and what to do."""

    exit_code = 4


class UsageError(StageError):
    """The command asks for something that cannot be done: wrong options, an output in the way."""

    exit_code = 2


class InTheWay(StageError):
    """What is in the output's place cannot stay there; `found` says why, and `advice` what a stage's command can do."""

    advice: str

    def __init__(self, found: str) -> None:
        super().__init__(found)  # and no more: it is made again from its arguments where it comes from another process
        self.found = found

    def __str__(self) -> str:
        return f"{self.found}; {self.advice}"


class MadeDifferently(InTheWay, UsageError):
    """It was made from other inputs or with other parameters."""

    advice = "use --force to replace it, or another --out"


class BeingWritten(UsageError):
    """Another process is writing the output, or holds its lock still."""


class DataError(StageError):
    """An input file, image, shard or policy is missing, damaged or does not fit."""

    exit_code = 3


class DamagedOutput(InTheWay, DataError):
    """It is damaged."""

    advice = "it stands where the output goes, and --force replaces it"


class OtherModel(DataError):
    """The model is not the one that the input or the policy was made with."""


class EngineError(StageError):
    """The model, the sampling engine or the device failed."""

    exit_code = 4
