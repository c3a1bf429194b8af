"""Frames, descriptors and naive values for tests of references."""

import naive
import numpy as np
from ase import Atoms
from ase.build import bulk

from quests_md import Descriptor, Reference
from quests_md.reference.contents import ARRAYS, Contents, ReferenceArrays

#: Bandwidth of the references, 1/Å.
H = 0.05


def rattled_cells(n, seed=0, amplitude=0.08):
    """Cubic cells of four copper atoms."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(amplitude, rng=rng)
        frames.append(atoms)
    return frames


class Given:
    """A descriptor of one's own: rows that the frames carry."""

    def __init__(self, fingerprint="given-1"):
        self.fingerprint = fingerprint

    def __call__(self, atoms):
        return atoms.arrays["row"]


def carrying(rows, numbers=29):
    """A frame that carries rows for `Given`."""
    rows = np.asarray(rows, float)
    atoms = Atoms(np.broadcast_to(numbers, len(rows)), positions=np.arange(len(rows))[:, None] * [2.0, 0, 0])
    atoms.arrays["row"] = rows
    return atoms


def repeated(reference, times, shift=1e-3):
    """The frames of a reference so many times, each time with slightly other rows: many rows that cost nothing."""
    kept, n_frames = reference.arrays, reference.n_frames
    rng = np.random.default_rng(0)
    counted = {"atom_frame": n_frames, "frame_index": n_frames, "frame_group": int(kept.frame_group.max()) + 1}
    arrays = {}
    for name, array in kept.present().items():
        if ARRAYS[name].per not in ("atoms", "frames"):
            arrays[name] = array
            continue
        parts = [array + i * counted.get(name, 0) for i in range(times)] if name in counted else [array] * times
        arrays[name] = np.concatenate(parts)
    for name in ("rows", "averaged"):
        moved = shift * rng.normal(size=arrays[name].shape)
        moved[: len(kept.rows)] = 0
        arrays[name] = (arrays[name] + moved).astype(arrays[name].dtype)
    whole = ReferenceArrays(**arrays)
    if reference.match == "element":
        whole = whole.with_rows(np.argsort(whole.numbers, kind="stable"))
    past = {"ancestors": [reference.fingerprint], "frames_of_ancestors": {reference.fingerprint: [0, n_frames]}}
    provenance = {**reference.provenance, **past}
    return Reference(Contents(whole, reference.descriptor, reference.settings, reference.sources, provenance))


def naive_delta_entropy(frames, atoms, match, bandwidth=H):
    describe = Descriptor()
    rows = np.concatenate([describe(frame) for frame in frames])
    numbers = np.concatenate([frame.numbers for frame in frames])
    out = []
    for row, z in zip(describe(atoms), atoms.numbers, strict=True):
        known = rows if match == "any" else rows[numbers == z]
        out.append(naive.delta_entropy([row], known, bandwidth)[0] if len(known) else np.inf)
    return np.array(out)


def assert_close(values, expected):
    """Equal as float64 sums are."""
    np.testing.assert_array_equal(np.isinf(values), np.isinf(expected))
    finite = np.isfinite(expected)
    error = np.abs(np.asarray(values)[finite] - expected[finite])
    assert (error <= 1e-9 * np.maximum(1, np.abs(expected[finite]))).all()
