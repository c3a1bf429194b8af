"""The rows of a reference at both scales, and what they are compared by."""

from functools import cached_property
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.environments import AVERAGED_SHARE, DescriptorLike, averaged_over
from quests_md.errors import MismatchError
from quests_md.records import NearestEnvironment

from .contents import Contents, ReferenceArrays
from .contents_checks import checked, rows_at
from .late_array import at_hand
from .nearest import Nearest

__all__ = ["KeptRows"]


class KeptRows:
    """Rows as they are, rows averaged over neighbours, and the bandwidth, match and descriptor that belong to them."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    @property
    def arrays(self) -> ReferenceArrays:
        """The arrays, read-only."""
        return self._contents.arrays

    @property
    def rows(self) -> NDArray[np.float64] | NDArray[np.float32]:
        """(N_ref, width) descriptor rows, 1/Å; float32 with precision="single"."""
        return self.arrays.rows

    @property
    def numbers(self) -> NDArray[np.uint8]:
        """(N_ref,) atomic numbers."""
        return self.arrays.numbers

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols present, by atomic number."""
        return tuple(chemical_symbols[z] for z in np.unique(self.numbers))

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for two references, or a frame and a reference, to be compared."""
        return dict(self._contents.settings)

    @property
    def row_groups(self) -> NDArray[np.int64]:
        """(N_ref,) group of each row: the group of its frame."""
        return self.arrays.groups_of_rows()

    def describe_nearest(self, nearest: Nearest, i: int) -> NearestEnvironment | None:
        """File, frame in that file, and atom of entry `i` of a result of `nearest`."""
        frame = int(nearest.frame[i])
        if frame < 0:
            return None
        return NearestEnvironment(
            distance=float(nearest.distance[i]),
            source=self._contents.sources[self.arrays.frame_source[frame]],
            frame=int(self.arrays.frame_index[frame]),
            atom=int(nearest.atom[i]),
        )

    @property
    def n_environments(self) -> int:
        """Rows N_ref."""
        return len(self.rows)

    @property
    def bandwidth(self) -> float:
        """Kernel width h, 1/Å."""
        return float(self._contents.settings["bandwidth"])

    @property
    def averaged_rows(self) -> NDArray[np.float32] | NDArray[np.float64] | None:
        """(N_ref, width) averages of the rows over 12 neighbours, 1/Å; the rows where they are averaged; or None.

        Those of a loaded reference are read from the file when first asked for. Raises FileNotFoundError if the file
        has gone by then, and FileFormatError if its content has changed.
        """
        averaged = self.rows if self.is_averaged else self.arrays.averaged
        return None if averaged is None else checked("averaged", at_hand(averaged))

    def averaged_rows_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | NDArray[np.float64]:
        """The averaged rows of the given rows (m,) of the reference, (m, width), in their order, 1/Å.

        Those of a loaded reference are read from the file, and the others are not kept in memory. Raises as
        `averaged_rows`, and MismatchError if there are none.
        """
        averaged = self.rows if self.is_averaged else self.arrays.averaged
        if averaged is None:
            raise MismatchError(f"reference: expected averaged rows, got {self.averaged_words}")
        return rows_at("averaged", averaged, rows)

    def rows_at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The given rows (m,) of the reference, (m, width), in their order, 1/Å.

        Raises FileFormatError if they are mapped from a file and not finite.
        """
        return rows_at("rows", self.rows, rows).astype(np.float64, copy=False)

    @property
    def is_averaged(self) -> bool:
        """Whether the rows themselves are the averaged rows: averaged already, or with nothing to be averaged over."""
        return averaged_over(self._contents.descriptor) == 0

    @property
    def has_averaged_rows(self) -> bool:
        """Whether there are averaged rows; nothing is read to tell."""
        return self.is_averaged or self.arrays.averaged is not None

    @property
    def averaged_bandwidth(self) -> float:
        """Kernel width for the averaged rows, 1/Å: 0.4 h, or h where the rows themselves are averaged."""
        return self.bandwidth if self.is_averaged else AVERAGED_SHARE * self.bandwidth

    @property
    def match(self) -> Literal["element", "any"]:
        """Which reference atoms an atom is compared with: those of its element, or any."""
        return "any" if self._contents.settings["match"] == "any" else "element"

    @property
    def precision(self) -> Literal["double", "single"]:
        """Whether rows are float64 or rounded to float32."""
        return "single" if self._contents.settings.get("precision") == "single" else "double"

    @property
    def descriptor(self) -> DescriptorLike:
        """The callable that makes the rows; ValueError if it is one of one's own and the file was loaded without it."""
        if self._contents.descriptor is None:
            raise ValueError(
                f"descriptor: the reference was made with {self._contents.settings['descriptor']!r}, which is not one "
                "of quests_md's; give it to Reference.load(path, descriptor=...)"
            )
        return self._contents.descriptor

    @property
    def averaged_words(self) -> str:
        """Whether averaged rows are there; if not, why, and what to do."""
        if self.is_averaged:
            return "the rows themselves"
        if self.arrays.averaged is not None:
            return f"kept beside the rows, h = {self.averaged_bandwidth:.4g} 1/Å"
        if averaged_over(self._contents.descriptor) is None:
            return "none, by a descriptor of one's own"
        return "none, made by an older version or merged with such; build it again from its frames to have them"
