"""What a reference holds: arrays, settings, and where they come from."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.environments import DescriptorLike
from quests_md.errors import MismatchError
from quests_md.records import NearestEnvironment

from . import file as reference_file
from .arrays import PAIR_BIN, ReferenceArrays
from .query import Nearest

__all__ = ["Contents", "require_equal_settings"]


class Contents:
    """Arrays, settings and origin of a reference, never changed, and what can be read off them."""

    def __init__(
        self,
        arrays: ReferenceArrays,
        *,
        descriptor: DescriptorLike | None,
        settings: Mapping[str, Any],
        sources: Sequence[str],
        provenance: Mapping[str, Any],
        fingerprint: str | None = None,
    ) -> None:
        self._arrays = arrays
        self._descriptor = descriptor
        self._settings = dict(settings)
        self._sources = tuple(sources)
        self._provenance = dict(provenance)
        self._fingerprint = fingerprint

    def replaced(self, arrays: ReferenceArrays, **changes: Any) -> Self:
        """A new one with these arrays and the arguments of the constructor that are given; the rest as here."""
        return type(self)(**(self._arguments() | {"arrays": arrays, "fingerprint": None} | changes))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled are the arguments of the constructor, nothing that can be made again."""
        return partial(type(self), **self._arguments()), ()

    def _arguments(self) -> dict[str, Any]:
        names = ("arrays", "descriptor", "settings", "sources", "provenance", "fingerprint")
        return {name: getattr(self, f"_{name}") for name in names}

    def __repr__(self) -> str:
        return (
            f"<Reference: {self.n_environments} environments of {', '.join(self.elements) or 'no element'} in "
            f"{self.n_frames} frames, h = {self.bandwidth} 1/Å, match = {self.match!r}, {self.fingerprint}>"
        )

    @property
    def arrays(self) -> ReferenceArrays:
        """The arrays, read-only."""
        return self._arrays

    @property
    def n_environments(self) -> int:
        """Rows N_ref."""
        return len(self._arrays.rows)

    @property
    def n_frames(self) -> int:
        """Frames that the environments come from."""
        return len(self._arrays.frame_natoms)

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols present, by atomic number."""
        return tuple(chemical_symbols[z] for z in np.unique(self._arrays.numbers))

    @property
    def bandwidth(self) -> float:
        """Kernel width h, 1/Å."""
        return float(self._settings["bandwidth"])

    @property
    def match(self) -> str:
        """Which reference atoms an atom is compared with: "element" or "any"."""
        return str(self._settings["match"])

    @property
    def descriptor(self) -> DescriptorLike:
        """The callable that makes the rows.

        Raises
        ------
        ValueError
            If the reference was loaded from a file made with a descriptor of one's own and none was given.
        """
        if self._descriptor is None:
            raise ValueError(
                f"descriptor: the reference was made with {self._settings['descriptor']!r}, which is not one of "
                "quests_md's; give it to Reference.load(path, descriptor=...)"
            )
        return self._descriptor

    @property
    def has_descriptor(self) -> bool:
        """Whether `descriptor` is known."""
        return self._descriptor is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for two references, or a frame and a reference, to be compared."""
        return dict(self._settings)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the reference comes from: creation time, versions, group rule, what was left out, parents."""
        return dict(self._provenance)

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the references from which `extend` and `merge` made this one, the oldest first."""
        return tuple(self._provenance.get("ancestors", self._provenance.get("parents", ())))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the files, to which `frame_source` points."""
        return self._sources

    @property
    def rows(self) -> NDArray[np.float64]:
        """(N_ref, width) descriptor rows, 1/Å."""
        return self._arrays.rows

    @property
    def numbers(self) -> NDArray[np.uint8]:
        """(N_ref,) atomic numbers."""
        return self._arrays.numbers

    @property
    def row_groups(self) -> NDArray[np.int64]:
        """(N_ref,) group of each row: the group of its frame."""
        return self._arrays.groups_of_rows()

    @property
    def fingerprint(self) -> str:
        """Checksum of the rows, elements, groups and settings: equal exactly for references that answer alike."""
        if self._fingerprint is None:
            self._fingerprint = reference_file.fingerprint(self._settings, self._arrays)
        return self._fingerprint

    def pair_distances(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Smallest and median nearest-neighbour distance in Å of each pair of atomic numbers (a <= b) seen."""
        arrays, distances = self._arrays, {}
        for (a, b), smallest, histogram in zip(
            arrays.pair_elements, arrays.pair_smallest, arrays.pair_histogram, strict=True
        ):
            middle = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
            distances[int(a), int(b)] = float(smallest), float((middle + 0.5) * PAIR_BIN)
        return distances

    def frame(self, index: int) -> Atoms:
        """Frame `index` as it is kept: its centers, with positions and cell in single precision."""
        order, ends = self._rows_of_frames
        atoms = order[ends[index] : ends[index + 1]]
        frame = Atoms(
            numbers=self.numbers[atoms],
            positions=self._arrays.positions[atoms].astype(np.float64),
            cell=self._arrays.cells[index].astype(np.float64),
            pbc=self._arrays.pbc[index],
        )
        marked = getattr(self._descriptor, "marked", None)  # of averaged frames, see TimeAveraged
        return frame if marked is None else marked(frame)

    def describe_nearest(self, nearest: Nearest, i: int) -> NearestEnvironment | None:
        """File, frame in that file, and atom of entry `i` of a result of `nearest`."""
        frame = int(nearest.frame[i])
        if frame < 0:
            return None
        return NearestEnvironment(
            distance=float(nearest.distance[i]),
            source=self._sources[self._arrays.frame_source[frame]],
            frame=int(self._arrays.frame_index[frame]),
            atom=int(nearest.atom[i]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the reference to a safetensors file, whole or not at all.

        Raises
        ------
        OSError
            If the file cannot be written; an older one of that name is then untouched.
        """
        header = {
            "settings": self._settings,
            "provenance": self._provenance,
            "sources": list(self._sources),
            "fingerprint": self.fingerprint,
        }
        reference_file.write(path, header, self._arrays)

    @staticmethod
    def verify(path: str | os.PathLike[str]) -> None:
        """Compare the content of a reference file with the checksums written at save.

        Raises
        ------
        FileFormatError
            If they differ; names the arrays.
        """
        reference_file.verify(Path(path))

    @cached_property
    def _rows_of_frames(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows in the order of frames, and where each frame ends."""
        order = self._arrays.frame_order
        return order, np.searchsorted(self._arrays.atom_frame[order], np.arange(self.n_frames + 1))


def require_equal_settings(
    expected: Mapping[str, Any], got: Mapping[str, Any], expected_name: str, got_name: str
) -> None:
    """Raise MismatchError naming the first setting that differs, with both values."""
    # the descriptor's fingerprint says less than the k or cutoff behind it
    last = "descriptor" if "k" in expected and "k" in got else ""
    for key in sorted(dict.fromkeys(["descriptor", *expected, *got]), key=lambda key: key == last):
        if expected.get(key) != got.get(key):
            raise MismatchError(
                f"{key}: {expected_name} has {expected.get(key)!r}, {got_name} has {got.get(key)!r}; "
                "build both with the same settings"
            )
