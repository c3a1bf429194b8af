"""The processes of LAMMPS under MPI: the first one leads, the others do what it asks for, and none waits in vain."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import numpy as np

from quests_md._interrupts import uninterrupted

from .lammps_frame import LocalAtoms

__all__ = ["Alone", "Ranks", "ranks_of"]

T = TypeVar("T")

#: What finds each thing that the first process can ask for.
Answers: TypeAlias = dict[str, Callable[[], Any]]


class Alone:
    """One process, which has all atoms."""

    size, leads = 1, True

    def __init__(self) -> None:
        self._answers: Answers = {}

    def led(self, answers: Answers) -> AbstractContextManager[None]:
        """The time of a check; `answers`: what finds each thing that can be asked for."""
        self._answers = answers
        return nullcontext()

    def atoms(self) -> LocalAtoms:
        """What all processes know of their atoms, one after the other."""
        atoms: LocalAtoms = self._answers["atoms"]()
        return atoms

    def energy(self) -> float | None:
        """The energy, in eV, if LAMMPS has it."""
        energy: float | None = self._answers["energy"]()
        return energy

    def agreed(self, verdict: int) -> int:
        """The largest of the numbers that the processes give."""
        return verdict

    def handed_out(self, given: T) -> T:
        """What the first process gives, in all of them."""
        return given

    def serve(self, answers: Answers) -> None:
        """Do what the first process asks for, until its check is over."""


class Ranks:
    """Several processes. All of them call `led` or `serve` at once, and `agreed` and `handed_out` after that."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.size, self.leads = int(comm.size), comm.rank == 0
        self._answers: Answers = {}

    @contextmanager
    def led(self, answers: Answers) -> Iterator[None]:
        """The time of a check, in the first process: the others serve it, and are let go whatever happens."""
        self._answers = answers
        try:
            yield
        finally:
            uninterrupted(lambda: self._comm.bcast(None))

    def atoms(self) -> LocalAtoms:
        """See `Alone`."""
        return LocalAtoms(*(np.concatenate(arrays) for arrays in zip(*self._asked("atoms"), strict=True)))

    def energy(self) -> float | None:
        """See `Alone`."""
        energy: float | None = self._asked("energy")[0]
        return energy

    def agreed(self, verdict: int) -> int:
        """See `Alone`."""
        return int(max(uninterrupted(lambda: self._comm.allgather(verdict))))

    def handed_out(self, given: T) -> T:
        """See `Alone`."""
        found: T = uninterrupted(lambda: self._comm.bcast(given))
        return found

    def serve(self, answers: Answers) -> None:
        """See `Alone`; what goes wrong here is raised in the first process."""

        def work() -> None:
            while (what := self._comm.bcast(None)) is not None:
                self._comm.gather(_tried(answers[what]))

        uninterrupted(work)

    def _asked(self, what: str) -> list[Any]:
        """What all processes answer, by rank; the first failure is raised when all have answered."""

        def work() -> list[tuple[Any, Exception | None]]:
            self._comm.bcast(what)
            found: list[tuple[Any, Exception | None]] = self._comm.gather(_tried(self._answers[what]))
            return found

        answers = uninterrupted(work)
        for rank, (_, failure) in enumerate(answers):
            if failure is not None:
                if rank:
                    failure.add_note(f"in process {rank} of LAMMPS")
                raise failure
        return [answer for answer, _ in answers]


def ranks_of(lmp: Any) -> Alone | Ranks:
    """The processes of an instance of LAMMPS.

    Raises
    ------
    ImportError
        LAMMPS runs on several processes, and mpi4py is not installed.
    """
    if lmp.extract_setting("world_size") == 1:
        return Alone()
    try:
        from mpi4py import MPI  # it begins MPI: only where LAMMPS has
    except ImportError as exc:
        raise ImportError(
            f'LAMMPS runs on several processes, and mpi4py is not there: pip install "quests_md[lammps]" ({exc})'
        ) from exc
    comm = lmp.get_mpi_comm()
    return Ranks((MPI.COMM_WORLD if comm is None else comm).Dup())


def _tried(find: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return find(), None
    except Exception as exc:
        return None, exc
