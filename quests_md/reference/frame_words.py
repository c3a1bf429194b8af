"""What the frames of a reference are, in words, and how a frame of a run differs from all of them."""

import numpy as np
from ase import Atoms

from quests_md._words import many
from quests_md.environments import element_symbol
from quests_md.io import periodic_words

from .lengths import doubt_of_lengths
from .reference import Reference

__all__ = ["differences", "frames_words", "unknown_elements"]

#: Part of the environments of a reference with the boundaries of a run from which on the two count as alike.
FEWEST_ALIKE = 0.1


def frames_words(reference: Reference) -> str:
    """Number of frames and files, atoms per frame, periodic directions, time between frames where it is known."""
    arrays = reference.arrays
    if reference.n_frames == 0:
        return "none"
    low, high = int(arrays.frame_natoms.min()), int(arrays.frame_natoms.max())
    sizes = f"{many(low, 'atom')} each" if low == high else f"{low} to {high} atoms"
    kinds, counts = np.unique(np.asarray(arrays.pbc), axis=0, return_counts=True)
    pbc = "; ".join(
        periodic_words(tuple(map(bool, kind))) + (f" ({count})" if len(kinds) > 1 else "")
        for kind, count in sorted(zip(kinds.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    )
    files = many(len(set(reference.sources)), "file")
    return f"{many(reference.n_frames, 'frame')} of {files}: {sizes}, {pbc}{_apart(reference)}"


def _apart(reference: Reference) -> str:
    """The time between frames of a file that tell theirs."""
    times, source = np.asarray(reference.arrays.frame_time), np.asarray(reference.arrays.frame_source)
    apart = np.diff(times)[np.diff(source) == 0]
    apart = apart[np.isfinite(apart) & (apart > 0)]
    return f", {float(f'{np.median(apart):.3g}'):g} ps apart" if len(apart) else ""


def differences(reference: Reference, atoms: Atoms) -> list[str]:
    """How the first frame of a run differs from those of the reference, in words: in elements, boundaries, lengths."""
    if reference.n_frames == 0 or len(atoms) == 0:
        return []
    lengths = doubt_of_lengths(reference, atoms)
    return _elements(reference, atoms) + _boundaries(reference, atoms) + ([lengths] if lengths else [])


def unknown_elements(reference: Reference, atoms: Atoms) -> dict[str, int]:
    """How many atoms there are of each element that the reference lacks; atoms that are no centers do not count."""
    numbers, counts = np.unique(atoms.numbers[reference.is_center(atoms.numbers)], return_counts=True)
    found = {element_symbol(z): n for z, n in zip(numbers.tolist(), counts.tolist(), strict=True)}
    return {symbol: found[symbol] for symbol in sorted(found.keys() - set(reference.elements))}


def _elements(reference: Reference, atoms: Atoms) -> list[str]:
    """Which elements of a frame the reference lacks, and what becomes of their atoms; empty: none."""
    unknown = unknown_elements(reference, atoms)
    if not unknown:
        return []
    named = ", ".join(f"{symbol} ({many(n, 'atom')})" for symbol, n in unknown.items())
    text = f"{named} {'is' if len(unknown) == 1 else 'are'} not in the reference, which has "
    text += ", ".join(reference.elements)
    if reference.match == "any":
        return [f"{text}: such atoms are compared by geometry alone (match='any')"]
    return [f"{text}: such atoms are above every level, whatever their environments"]


def _boundaries(reference: Reference, atoms: Atoms) -> list[str]:
    """How the boundaries of a frame differ from those of the reference; empty where they do not.

    They do not differ where at least a tenth of the environments of the reference have them: a few molecules beside
    bulk frames do not make a run without a cell one like these.
    """
    arrays = reference.arrays
    per_frame = np.bincount(arrays.atom_frame, minlength=reference.n_frames)
    kinds, of_frame = np.unique(np.asarray(arrays.pbc), axis=0, return_inverse=True)
    counts = np.bincount(np.ravel(of_frame), weights=per_frame)
    shares = {
        tuple(map(bool, kind)): count / max(counts.sum(), 1)
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
    }
    pbc = tuple(bool(p) for p in atoms.pbc)
    like = shares.get(pbc, 0.0)
    if like >= FEWEST_ALIKE:
        return []
    others = {kind: share for kind, share in shares.items() if kind != pbc}
    known = " or ".join(sorted(periodic_words(kind) for kind in others))
    of = "all frames of the reference" if like == 0 else f"{1 - like:.1%} of the environments of the reference"
    text = f"the frames of the run are {periodic_words(pbc)}, {of} {known}"
    usual = max(others, key=others.__getitem__)
    if sum(pbc) < sum(usual):
        text += (
            ': atoms at bare faces look novel. If the run is periodic, give its cell: Lattice="ax ay az bx by bz cx cy '
            'cz" in the comment of each frame of an XYZ file (docs/inputs.md)'
        )
    elif sum(pbc) > sum(usual):
        text += (
            ": atoms inside look novel beside atoms at bare faces. If the training set is periodic, give its cells and "
            "build the reference again (docs/inputs.md)"
        )
    return [text]
