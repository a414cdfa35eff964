"""The errors a stage raises on purpose, each with the exit code the command line gives it."""


class StageError(Exception):
    """A failure with a message for the person at the terminal: what is wrong, where, and what to do."""

    exit_code = 4


class UsageError(StageError):
    """The command asks for something that cannot be done: wrong options, an output in the way."""

    exit_code = 2


class DataError(StageError):
    """An input file, image, shard or policy is missing, damaged or does not fit."""

    exit_code = 3


class EngineError(StageError):
    """The model, the sampling engine or the device failed."""

    exit_code = 4
