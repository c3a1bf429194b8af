"""The calculators of the runs of a loop, refitted for each round."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

__all__ = ["Models", "Refit", "forces_by", "fresh"]

#: Takes all labelled frames so far and returns the calculator of the next runs, or None to keep the one before.
Refit = Callable[[list[Atoms]], Any]


class Models:
    """The calculators of the starts, and those that `refit` makes; the last one is kept."""

    def __init__(self, starts: Sequence[Atoms], refit: Refit | None) -> None:
        self._starts, self._refit = starts, refit
        self._made: tuple[int, list[Any]] | None = None

    def of_round(self, number: int, labelled: Callable[[], list[Atoms]]) -> list[Any]:
        """The calculator of each start in the runs of a round; `labelled` gives the frames to fit."""
        if self._made is None or self._made[0] != number:
            is_lacking = any(start.calc is None for start in self._starts)
            model = self._refit(labelled()) if self._refit is not None and (number or is_lacking) else None
            self._made = number, [start.calc if model is None else model for start in self._starts]
        return self._made[1]


def fresh(model: Any) -> Any:
    """The calculator without memory of the frames before, as far as it can forget: last bits may depend on them."""
    if hasattr(model, "reset"):
        model.reset()
    return model


def forces_by(model: Any, frame: Atoms) -> NDArray[np.float64]:
    """(n_atoms, 3) forces of a calculator in a frame, eV/Å."""
    bare: Atoms = frame.copy()
    bare.calc = fresh(model)
    return np.array(bare.get_forces(), dtype=np.float64)
