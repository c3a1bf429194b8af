"""What a judge hands on: a check with what went into it, and what a second judge says of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from quests_md.records import Check

__all__ = ["Judged", "LateRows", "Opinion", "called_off", "fields_of_excesses", "opinion_of"]


def fields_of_excesses(excesses: Mapping[str, float]) -> dict[str, Any]:
    """The fields of a check that follow from the excesses of its statistics: it is out exactly if one is above 0."""
    alarms = tuple(name for name, value in excesses.items() if value > 0)
    return {
        "alarms": alarms,
        "excesses": dict(excesses),
        "trigger_excess": max(excesses.values(), default=-math.inf),
        "state": "out" if alarms else "in",
    }


class LateRows(NDArrayOperatorsMixin):
    """An array that is made, or fetched, where someone asks for it: it is much to send, and few are asked for."""

    def __init__(self, find: Callable[[], NDArray[np.float64]]) -> None:
        self._find = find
        self._rows: NDArray[np.float64] | None = None

    def __getitem__(self, chosen: Any) -> Any:
        return np.asarray(self)[chosen]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __len__(self) -> int:
        return len(np.asarray(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float64]:
        if self._rows is None:
            self._rows = self._find()
        return self._rows if dtype is None else self._rows.astype(dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, LateRows) else x for x in inputs), **options)


@dataclass(frozen=True, slots=True)
class Judged:
    """A check with what went into it."""

    check: Check
    rows: NDArray[np.float64] | LateRows | None
    """(n_atoms, width) descriptor rows; None for an invalid frame."""
    reason: str = ""
    """Why the frame is invalid."""
    tail: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms above the atom level; None where no statistic in use counts them."""
    offenders: tuple[int, ...] = ()
    """Atoms that make the frame an explosion, or would with motion out of bounds, the worst first."""
    near: str = ""
    """Which atoms are too near to each other, in words: an explosion if their motion is out of bounds as well."""
    fastest_K: float | None = None
    """Kinetic energy of the fastest atom as a temperature, K; None for frames without momenta."""
    product: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms that look like the new phase with the largest cluster; None without labelled phases."""
    product_phase: str | None = None
    """Name of that new phase."""
    unanswered: str = ""
    """Why the second reference could not answer; the alarms of the first then stand."""
    unpromised: str = ""
    """Why the levels promise no rate of false alarms, not even about; empty: they promise one."""
    averaged: bool = True
    """Whether local scores are of rows averaged over neighbours, and not of single environments."""

    def with_excesses(self, changed: Mapping[str, float | None]) -> "Judged":
        """The same check with other excesses of some statistics; None: the statistic is not in use."""
        merged = {name: value for name, value in {**self.check.excesses, **changed}.items() if value is not None}
        return replace(self, check=replace(self.check, **fields_of_excesses(merged)))


class Opinion(NamedTuple):
    """What the second judge says of a frame."""

    excess: float | None = None
    """Its trigger excess; inf: the frame has exploded; None: it was not asked, or could not answer."""
    unanswered: str = ""
    """Why it could not answer."""


def opinion_of(judge: Callable[[], Judged]) -> Opinion:
    """Ask the second judge about a frame: `judge` judges it. If anything fails, there is no answer."""
    try:
        judged = judge()
    except Exception as exc:  # a calculator may raise anything, and the frame is worth an alarm as it is
        return Opinion(unanswered=f"{type(exc).__name__}: {exc}")
    check = judged.check
    if check.state == "invalid":
        return Opinion(unanswered=judged.reason)
    if check.explosion:
        return Opinion(math.inf)
    if check.trigger_excess == -math.inf:
        return Opinion(unanswered=f"none of its statistics has a level for a frame of {check.n_atoms} atoms")
    return Opinion(check.trigger_excess)


def called_off(excesses: Mapping[str, float], opinion: Opinion) -> dict[str, float]:
    """The excesses after the second opinion: if the second judge has no alarm, none is larger than its excess."""
    if opinion.excess is None or opinion.excess > 0:
        return dict(excesses)
    return {name: min(value, opinion.excess) for name, value in excesses.items()}
