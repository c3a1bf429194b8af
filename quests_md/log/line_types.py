"""What the lines of a log hold: the fields that readers use, each with its type.

Fields that are not named here may hold anything, lines of unknown types too: later versions may write more.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quests_md._json import from_mapping
from quests_md.records import Check, Event

__all__ = ["check_line_types"]


@dataclass(frozen=True, slots=True)
class _Reference:
    fingerprint: str = ""
    n_environments: int = 0
    elements: tuple[str, ...] = ()
    bandwidth: float = math.nan
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Level:
    statistic: str = ""
    value: float = math.nan
    element: str | None = None
    side: str = ""


@dataclass(frozen=True, slots=True)
class _Calibration:
    level: float = math.nan
    kind: str = ""
    false_alarms: float = math.nan
    per: str = ""
    rate: float = math.nan
    n_groups: int = 0
    fingerprint: str = ""
    digest: str = ""
    checks: int | None = None
    tolerance: float = math.nan
    share: float = math.nan
    statistics: tuple[str, ...] = ()
    levels: tuple[_Level, ...] = ()
    atom_levels: Mapping[str, float] = field(default_factory=dict)
    promise: str = ""


@dataclass(frozen=True, slots=True)
class _PhaseLevel:
    value: float = math.nan


@dataclass(frozen=True, slots=True)
class _Phases:
    parent: str = ""
    references: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, _PhaseLevel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Header:
    schema: int
    version: str = ""
    started: str = ""
    host: str = ""
    pid: int = 0
    reference: _Reference | None = None
    calibration: _Calibration | None = None
    budget: float | None = None
    baseline_ps: float | None = None
    phases: _Phases | None = None
    max_temperature_K: float | None = None
    trigger: Mapping[str, object] | None = None
    confirm: Mapping[str, object] | None = None
    values: Mapping[str, object] | None = None
    files: Mapping[str, int] | None = None
    n_atoms: int = 0


@dataclass(frozen=True, slots=True)
class _Changed:
    """A line of type "reference"."""

    step: int | None = None
    chain: tuple[str, ...] = ()
    reference: _Reference | None = None
    calibration: _Calibration | None = None
    phases: _Phases | None = None


@dataclass(frozen=True, slots=True)
class _Note:
    level: str = ""
    step: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Rewind:
    frame: int
    step: int | None = None


@dataclass(frozen=True, slots=True)
class _Process:
    version: str = ""
    started: str = ""
    host: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    step: int | None = None
    frame: int | None = None
    files: Mapping[str, int] | None = None
    snapshot: Mapping[str, object] | None = None
    resumed: _Process | None = None
    detached: bool | None = None
    stopped: str | None = None
    event: int | None = None


def _of(record: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda line: from_mapping(record, line)


_READ: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "header": _of(_Header),
    "check": Check.from_line,
    "event": Event.from_line,
    "note": _of(_Note),
    "rewind": _of(_Rewind),
    "state": _of(_State),
    "reference": _of(_Changed),
}


def check_line_types(line: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the field, if a line lacks a field or one does not hold what it should."""
    read = _READ.get(line["type"])
    if read is None:
        return
    try:
        read(line)
    except KeyError as exc:
        raise ValueError(f"lacks {exc}") from exc
    except TypeError as exc:
        raise ValueError(str(exc)[:200]) from exc
