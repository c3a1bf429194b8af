"""Whether the frames of a run are all of one system: images and replicas are not."""

import gc
import weakref

from ase import Atoms

from quests_md.environments import frame_digest

__all__ = ["OneSystem"]

#: Atoms that are remembered at most, the last ones.
MOST_REMEMBERED = 256


class _Seen:
    """Atoms that were checked, and how they were then."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = weakref.ref(atoms)
        self.digest = ""  # not known yet


class OneSystem:
    """Notices images and replicas: other atoms at a step that was checked already, or atoms that move by turns.

    A run may go on with other atoms, with a step that is tried again, or with frames of a list: none of these is
    noticed as long as the atoms from before are gone or stay as they are.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._last: int | None = None  # key of the atoms that were checked last
        self._step: int | None = None  # that was given with them
        self._have_returned: set[int] = set()  # atoms that have moved while others were checked
        self._is_sure = False  # whether there are images or replicas

    def doubt(self, atoms: Atoms, step: int | None) -> str:
        """Why these atoms, which are to be checked, cannot be of the run, in words; empty: they can.

        `step` is what was given for them, if so. After the check, call `took`.
        """
        key = id(atoms)
        if self._last is not None and key != self._last:
            if step is not None and step == self._step and frame_digest(atoms) != self._seen[self._last].digest:
                if self._is_alive(self._last):
                    return "this step has been checked already, with other atoms"
            elif self._has_moved(atoms):
                if any(self._is_alive(other) for other in self._have_returned - {key}):
                    return "these atoms and others, checked before, move by turns"
                self._have_returned.add(key)
        self._seen.pop(key, None)  # the last ones are remembered
        self._seen[key] = _Seen(atoms)
        while len(self._seen) > MOST_REMEMBERED:
            gone = next(iter(self._seen))
            del self._seen[gone]
            self._have_returned.discard(gone)
        self._last, self._step = key, step
        return ""

    def took(self, digest: str) -> None:
        """Take the checksum of the atoms that were checked last."""
        if self._last is not None:
            self._seen[self._last].digest = digest

    def _has_moved(self, atoms: Atoms) -> bool:
        seen = self._seen.get(id(atoms))
        if seen is None or seen.atoms() is not atoms:
            self._have_returned.discard(id(atoms))  # of other atoms, which were there before
            return False
        return seen.digest not in ("", frame_digest(atoms))

    def _is_alive(self, key: int) -> bool:
        """Whether somebody still holds these atoms."""
        if not self._is_sure and self._seen[key].atoms() is not None:
            gc.collect()  # a dynamics that was dropped may hold them, in a ring of references
            self._is_sure = self._seen[key].atoms() is not None
        return self._seen[key].atoms() is not None
