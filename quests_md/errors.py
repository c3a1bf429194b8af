"""The exceptions of quests_md that someone may want to catch."""

__all__ = [
    "FileFormatError",
    "FrameError",
    "LammpsError",
    "LogExistsError",
    "MismatchError",
    "QuestsMDError",
    "StopRun",
    "UnsuitableFrameError",
]


class QuestsMDError(Exception):
    """Base class of the exceptions that quests_md defines."""


class FrameError(QuestsMDError, ValueError):
    """A frame cannot be described: non-finite numbers, a zero or flat cell with pbc, doubled atoms in a reference.

    In a run such a frame counts as an explosion, unless the error is an `UnsuitableFrameError`.
    """


class UnsuitableFrameError(FrameError):
    """A frame may be good but is not what the descriptor takes: an element it was not told of, not an average.

    The use is wrong, not the frame: in a run it is a failure of the monitor, never an explosion.
    """


class FileFormatError(QuestsMDError, ValueError):
    """A file is empty, torn, of a newer schema, or not what its name says."""


class MismatchError(QuestsMDError, ValueError):
    """Two things that must agree do not: settings, fingerprints, atom numbers."""


class LammpsError(QuestsMDError, RuntimeError):
    """LAMMPS has ended with an error: the line of its input and its own text."""


class LogExistsError(QuestsMDError, FileExistsError):
    """The log file already holds a run."""


class StopRun(Exception):  # a request like StopIteration, not an error
    """Raised by an action to end the run cleanly after the current step; the monitor takes it."""
