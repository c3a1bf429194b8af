"""What a worker does: it reads parts of files and judges their frames."""

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from quests_md.io import Part, read_part
from quests_md.judge import Judge, Judged
from quests_md.watch import keep_trace

from .frames_of_log import Chosen
from .judging import JudgedFrame, judge_frame, without_rows

__all__ = ["JudgedPart", "PartJudge", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a file that is to be judged. It is small, as what all parts share is sent once."""

    part: Part
    count: int | None
    """How many frames come before the part; None: that is not known yet."""
    n_known: int
    """Its first frames that are in the log already: they are read and not judged."""


@dataclass(slots=True)
class JudgedPart:
    """What a worker has found in a part."""

    frames: list[tuple[int, JudgedFrame]] = field(default_factory=list)
    """The frames that may be checked, with their numbers in the part."""
    n_read: int = 0
    """Frames in the part."""
    told: list[tuple[int, str, str]] = field(default_factory=list)
    """Warnings of the reader: number of frames before them, text, kind."""
    failure: Exception | None = None
    """Why the rest of the part could not be read."""
    has_ended: bool = False
    """Whether the file has no more frames."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PartJudge:
    """A judge of the frames of parts, which a worker is sent once."""

    judge: Judge
    chosen: Chosen | None
    """Frames that are checked; None: all."""

    def __call__(self, tasks: Sequence[Task]) -> list[JudgedPart]:
        """Read parts one after the other and judge their frames."""
        return [_judge_part(self.judge, self.chosen, task) for task in tasks]


def _judge_part(judge: Judge, chosen: Chosen | None, task: Task) -> JudgedPart:
    """Read a part and judge its frames; errors are among what is found, where they would come in its order."""
    start, out = time.perf_counter(), JudgedPart()
    frames = read_part(task.part, lambda message, once: out.told.append((len(out.frames), message, once)))
    while True:
        try:
            frame = next(frames)
        except StopIteration as end:
            out.has_ended = end.value
            break
        except Exception as error:
            out.failure = _sendable(error)
            break
        number, out.n_read = out.n_read, out.n_read + 1
        count = None if task.count is None else task.count + number
        is_wanted = chosen is None or chosen.wants(frame, count)
        if is_wanted is False:
            continue
        judged = None
        if is_wanted and number >= task.n_known and len(frame.atoms):
            found = judge_frame(judge, frame, 0)
            judged = without_rows(judge, found) if isinstance(found, Judged) else _sendable(found)
        out.frames.append((number, JudgedFrame(frame.atoms, frame.source, frame.index, judged)))
    out.seconds = time.perf_counter() - start
    return out


def _sendable(error: Exception) -> Exception:
    """The error, or one of the same words where it cannot be sent."""
    keep_trace(error)
    try:
        same = pickle.loads(pickle.dumps(error))
        if type(same) is type(error) and str(same) == str(error):
            return error
    except Exception:  # of classes whose constructors take other arguments
        pass
    other = RuntimeError(f"{type(error).__name__}: {error}")
    keep_trace(other, error)
    return other
