"""Where the scores of a calibration come from: what is needed to carry its levels to a larger reference, and on."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The frames whose scores set levels, and how they were grouped. It stays as it is where levels are carried."""

    how: str
    """How the scores were made, in words."""
    fingerprint: str
    """Fingerprint of the reference for which they were made."""
    frame_groups: NDArray[np.int64] | None = field(default=None, repr=False)
    """(n_frames,) group of each frame of that reference, by which its frames were held out; None: separate frames were
    scored, or the groups are not known, as in older files."""
    is_separate: bool = False
    """Whether separate frames were scored."""

    @property
    def is_known(self) -> bool:
        """Whether it is known which frames were scored, and as which groups."""
        return self.is_separate or self.frame_groups is not None

    def in_words(self, fingerprint: str) -> str:
        """How the levels for the reference with that fingerprint were made."""
        if fingerprint == self.fingerprint:
            return self.how
        kept = f"carried from reference {self.fingerprint} to one with more frames, which set no level"
        return f"{self.how}; {kept}" if self.frame_groups is not None else f"{self.how}; upper levels {kept}"

    def why_unpromised(self, fingerprint: str) -> str | None:
        """Why levels for the reference with that fingerprint promise nothing; None: they do."""
        if self.is_known or fingerprint == self.fingerprint:
            return None
        return "of an older file, which does not say how frames were grouped"
