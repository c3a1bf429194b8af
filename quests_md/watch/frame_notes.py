"""What is said once of the frames of a run: an empty one, a change of their size, unknown elements."""

from collections.abc import Iterator, Sequence

from quests_md.records import Check

__all__ = ["FrameNotes"]


class FrameNotes:
    """Remembers what has been said, and how many atoms the last frame with atoms had."""

    def __init__(self) -> None:
        self.n_atoms = 0
        self._said: set[str] = set()

    def of(self, check: Check, calculator: object, elements: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """What to note of a check, and whether it is to be known at once; `elements` are those of the reference."""
        if check.n_atoms == 0:
            text = (
                f"EMPTY FRAME at step {check.step}: it has no atoms and is not judged; is the file torn, or does a "
                "filter leave nothing? Empty frames open no event"
            )
            yield from self._once("empty", text, is_loud=True)
            return
        if self.n_atoms not in (0, check.n_atoms):
            text = f"the number of atoms changed from {self.n_atoms} to {check.n_atoms}"
            yield from self._once("atoms", f"{text}; the levels follow the size")
        self.n_atoms = check.n_atoms
        if calculator is not None and check.energy_per_atom is None:
            text = f"the calculator ({type(calculator).__name__}) has no energy of a frame without a new calculation"
            yield from self._once("energy", f"{text}: where this is so, log and flagged frames have none")
        if check.n_unknown:
            text = f"{check.n_unknown} atoms of elements that the reference has never seen score +inf"
            yield from self._once("unknown", f"{text}; it has {', '.join(elements) or 'none'}")

    def _once(self, what: str, text: str, *, is_loud: bool = False) -> Iterator[tuple[str, bool]]:
        if what not in self._said:
            self._said.add(what)
            yield f"{text}; said once", is_loud
