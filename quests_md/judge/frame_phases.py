"""What labelled phases say of one frame."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import Level, count_excess

from .phases import Phases

__all__ = ["NO_PHASES", "FramePhases", "phases_of_frame"]


class FramePhases(NamedTuple):
    """What labelled phases say of a frame."""

    name: str | None = None
    """The product that is farthest beyond its level."""
    atoms: NDArray[np.bool_] | None = None
    """(n_atoms,) the atoms that look like it."""
    counts: dict[str, int] | None = None
    """Atoms that look like each phase."""
    clusters: dict[str, int] | None = None
    """Atoms in the largest cluster of each product."""
    excesses: dict[str, float] = {}  # noqa: RUF012 - nobody writes into it
    """How far each of these is beyond its level, by the name of the statistic."""


NO_PHASES = FramePhases()


def phases_of_frame(
    phases: Phases,
    levels: dict[str, Level],
    atoms: Atoms,
    rows: NDArray[np.float64],
    release: float,
    threads: int | None,
) -> FramePhases:
    """Ask labelled phases about a frame with these rows; `levels` are those of the largest cluster of each product."""
    labels = phases.assign(atoms, rows, threads=threads)
    clusters = phases.clusters(atoms, labels)
    beyond = {name: count_excess(clusters[name], level, release) for name, level in levels.items()}
    product = max(beyond, key=lambda name: beyond[name])
    return FramePhases(
        name=product,
        atoms=labels == phases.names.index(product),
        counts={name: int((labels == i).sum()) for i, name in enumerate(phases.names)},
        clusters=clusters,
        excesses={f"phase:{name}": excess for name, excess in beyond.items()},
    )
