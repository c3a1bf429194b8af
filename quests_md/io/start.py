"""Where in a file a frame begins."""

from dataclasses import dataclass

__all__ = ["Start"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a frame begins, and what a reader that has read all frames before it knows by then."""

    index: int
    """Number of the frame."""
    offset: int = 0
    """Bytes before it."""
    line: int = 0
    """Lines before it."""
    n_atoms_before: int = 0
    """Atoms of the frame before it."""
    style: str | None = None
    """Units that a LAMMPS dump has named."""
    has_flags: bool | None = None
    """Whether a LAMMPS dump has named its boundaries."""
