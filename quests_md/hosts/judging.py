"""Frames judged in order: in this thread, on several threads, or by workers before they come here."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ase import Atoms

from quests_md._arguments import is_integer
from quests_md._interrupts import uninterrupted
from quests_md.environments import Descriptor, describe
from quests_md.errors import FrameError
from quests_md.io import Frame, frame_time_ps
from quests_md.judge import Judge, Judged, LateRows
from quests_md.records import FramePlace

__all__ = ["JudgedFrame", "judge_frame", "judged_in_order", "step_of", "without_rows"]


@dataclass(frozen=True, slots=True)
class JudgedFrame(Frame):
    """A frame that a worker has read, and what its judge says."""

    judged: Judged | Exception | None = None
    """The judgement of the frame as number 0, or why there is none; None: it was not judged."""


def step_of(atoms: Atoms, count: int) -> int:
    """The step that a frame tells, else its count."""
    step: Any = atoms.info.get("step")
    return int(step) if is_integer(step) else count


def judge_frame(judge: Judge, frame: Frame, count: int) -> Judged | Exception:
    """Judge a frame; an error is returned with the place of the frame: the monitor knows whether to raise it."""
    atoms = frame.atoms
    try:
        found = judge.judge(atoms, step=step_of(atoms, count), frame=count, time_ps=frame_time_ps(atoms))
        return found if frame.source == "memory" else _placed(found, frame)
    except Exception as exc:
        return exc if frame.source == "memory" else _told(exc, f"{frame.source}, frame {frame.index}")


def without_rows(judge: Judge, judged: Judged) -> Judged:
    """A judgement as it is sent: without rows that can be computed again, where it is likely that nobody asks."""
    is_sure = judged.check.state == "in" and isinstance(judge.reference.descriptor, Descriptor)
    return replace(judged, rows=None) if is_sure else judged


def judged_in_order(
    frames: Iterator[Frame], first: int, judge: Judge, threads: int, takes_calculations: bool
) -> Iterator[tuple[Judged | Exception, Atoms]]:
    """Frames with their judgement or why there is none, in order; at most two frames per thread are held.

    Where a judgement takes calculations of the user's own, and there is one thread, the work is done in this one.
    """
    if threads == 1:
        for count, frame in enumerate(frames, first):
            if isinstance(frame, JudgedFrame) and frame.judged is not None:
                yield _numbered(judge, frame, frame.judged, count), frame.atoms
                continue
            work = partial(judge_frame, judge, frame, count)
            yield (work() if takes_calculations else uninterrupted(work)), frame.atoms
        return
    waiting: deque[tuple[Future[Judged | Exception], Atoms]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        damage: Exception | None = None
        try:
            for count, frame in enumerate(frames, first):
                waiting.append((pool.submit(judge_frame, judge, frame, count), frame.atoms))
                if len(waiting) >= 2 * threads:
                    future, atoms = waiting.popleft()
                    yield future.result(), atoms
        except Exception as exc:  # a damaged frame does not cost the ones before it
            damage = exc
        for future, atoms in waiting:
            yield future.result(), atoms
        if damage is not None:
            raise damage


def _numbered(judge: Judge, frame: JudgedFrame, judged: Judged | Exception, count: int) -> Judged | Exception:
    """The judgement that the judge would have given here."""
    if isinstance(judged, Exception):
        return judged
    check = replace(judged.check, step=step_of(frame.atoms, count), frame=count)
    rows = judged.rows
    if rows is None and check.state == "in":
        rows = LateRows(partial(describe, judge.reference.descriptor, frame.atoms, judge.threads))
    return replace(judged, check=check, rows=rows)


def _placed(judged: Judged, frame: Frame) -> Judged:
    return replace(judged, check=replace(judged.check, place=FramePlace(frame.source, frame.index)))


def _told(error: Exception, place: str) -> Exception:
    """The error with the place of the frame that it is of."""
    if isinstance(error, FrameError):
        return type(error)(f"{place}: {error}")
    error.add_note(f"at {place}")
    return error
