"""The fixed sample of atoms and the sketch of the reference that stand for a whole frame in "proven" mode."""

import math

import numpy as np
from numpy.typing import NDArray

from quests_md._threads import available_threads
from quests_md.engine import build_index, entropy
from quests_md.environments import hashed

__all__ = ["SAMPLE_ATOMS", "SEED", "SKETCH_ROWS", "frame_entropy", "sample"]

#: Atoms of a frame whose dH makes the averages, and rows of the reference that these atoms are compared with.
SAMPLE_ATOMS = 512
SKETCH_ROWS = 16_384

#: Seed of the sample and of the sketch.
SEED = 0

#: Atoms of a frame up to which a float64 sum over pairs takes less time than a search structure.
LARGE = 2000


def sample(identities: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """Places of the 512 atoms whose hashed identities are smallest, ascending; of smaller frames all places."""
    if len(identities) <= SAMPLE_ATOMS:
        return np.arange(len(identities))
    chosen = np.argsort(hashed(identities, seed), kind="stable")[:SAMPLE_ATOMS]
    return np.sort(chosen)


def frame_entropy(rows: NDArray[np.float64], bandwidth: float, threads: int | None) -> float:
    """Self-entropy of the rows of a frame in nats; of more than 2000 rows from fast values, to 1e-5."""
    if len(rows) <= LARGE:
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    values, _, usual = build_index(rows, bandwidth).minus_log_sums(rows, available_threads(threads))
    if not (usual < 1e-3).all():  # numbers that float32 cannot follow
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    return math.log(len(rows)) + float(values.mean())
