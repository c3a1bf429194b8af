"""A log read back: the checks as arrays, the events as records."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.records import Event

from .columns import BadLineError, CheckColumns
from .history import LogHistory
from .line_search import Line
from .schema import SCHEMA

__all__ = ["Log", "read_log"]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log read back: one array entry per check, NaN (-1 in columns of integers) where there was no number.

    Checks and events are those of the final history: checks that were made again after the run was taken up at an
    earlier step are left out. `frame` grows, perhaps with gaps. `alarms` holds the names of the statistics with a space
    between them; texts are cut at 200 characters; `excesses` holds an array per statistic, `phases` and
    `phase_clusters` one array per phase.
    """

    header: dict[str, Any]
    """The header line: package version, reference, settings, levels and what they promise."""
    events: list[Event]
    """The latest state of every event, in order of id."""
    notes: list[dict[str, Any]]
    """Notes, warnings and errors that the monitor wrote, also in parts that were superseded."""
    rewinds: list[dict[str, Any]]
    """All rewinds: checks from `frame` on that stood before such a line were superseded."""
    references: list[dict[str, Any]]
    """Changes of the reference."""
    step: NDArray[np.int64]
    frame: NDArray[np.int64]
    time_ps: NDArray[np.float64]
    n_atoms: NDArray[np.int64]
    dh_max: NDArray[np.float64]
    dh_mean: NDArray[np.float64]
    dh_q99: NDArray[np.float64]
    n_above: NDArray[np.int64]
    largest_cluster: NDArray[np.float64]
    n_tail: NDArray[np.int64]
    tail_cluster: NDArray[np.float64]
    frame_entropy: NDArray[np.float64]
    excess: NDArray[np.float64]
    worst_atom: NDArray[np.int64]
    worst_element: NDArray[np.str_]
    n_unknown: NDArray[np.int64]
    temperature_K: NDArray[np.float64]
    volume_per_atom: NDArray[np.float64]
    energy_per_atom: NDArray[np.float64]
    interval: NDArray[np.float64]
    alarms: NDArray[np.str_]
    trigger_excess: NDArray[np.float64]
    excesses: dict[str, NDArray[np.float64]]
    phases: dict[str, NDArray[np.int64]]
    phase_clusters: dict[str, NDArray[np.int64]]
    explosion: NDArray[np.str_]
    confirm_excess: NDArray[np.float64]
    state: NDArray[np.str_]
    digest: NDArray[np.str_]
    elapsed_us: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a log, also of a run that is still going or was killed: a torn last line is ignored.

    A million checks take 10 to 15 s and, while they are read, twice the memory of the result.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, not a log, of a newer schema, or damaged before its last line.

    Examples
    --------
    >>> log = read_log("quests-md.jsonl")                      # doctest: +SKIP
    >>> log.step[log.state == "out"], log.events[0].onset_step  # doctest: +SKIP
    """
    history = LogHistory(path)
    columns = CheckColumns()
    events: dict[int, Event] = {}
    notes, references = [], []
    try:
        for line, counts in history.every_line():
            kind = line.content["type"]
            if kind == "note":
                notes.append(line.content)
            elif not counts:
                continue
            elif kind == "check":
                columns.add(line)
            elif kind == "event":
                event = _event(line)
                events[event.id] = event
            elif kind == "reference":
                references.append(line.content)
        arrays = columns.arrays()
    except BadLineError as bad:
        raise history.error(bad.start, f"is not a log line of schema {SCHEMA}: {bad}") from bad.__cause__
    return Log(
        header=history.header,
        events=[events[i] for i in sorted(events)],
        notes=notes,
        rewinds=history.rewinds,
        references=references,
        **arrays,
    )


def _event(line: Line) -> Event:
    try:
        return Event.from_line(line.content)
    except (KeyError, TypeError) as exc:
        raise BadLineError(line, exc) from exc
