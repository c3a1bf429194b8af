"""The processes of LAMMPS under MPI: the first one leads, the others do what it asks for, and none waits in vain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np

from quests_md._interrupts import uninterrupted

from .lammps_frame import LocalAtoms

__all__ = ["Alone", "Ranks", "ranks_of"]

T = TypeVar("T")


class Alone:
    """One process, which has all atoms."""

    size, leads = 1, True

    def led(self) -> Any:
        """The time of a check."""
        return nullcontext()

    def gathered(self, local: Callable[[], LocalAtoms]) -> LocalAtoms:
        """What all processes know of their atoms."""
        return local()

    def energy(self, find: Callable[[], float | None]) -> float | None:
        """What all processes have to find together."""
        return find()

    def agreed(self, verdict: int) -> int:
        """The largest of the numbers that the processes give."""
        return verdict

    def handed_out(self, given: T) -> T:
        """What the first process gives, in all of them."""
        return given

    def serve(self, _local: Callable[[], LocalAtoms], _energy: Callable[[], float | None]) -> None:
        """Do what the first process asks for, until its check is over."""


class Ranks:
    """Several processes. All of them call `led` or `serve` at once, and `agreed` and `handed_out` after that."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.size, self.leads = int(comm.size), comm.rank == 0

    @contextmanager
    def led(self) -> Iterator[None]:
        """The time of a check, in the first process: the others serve it, and are let go whatever happens."""
        try:
            yield
        finally:
            uninterrupted(lambda: self._comm.bcast(None))

    def gathered(self, local: Callable[[], LocalAtoms]) -> LocalAtoms:
        """See `Alone`."""
        parts = self._asked("local", local)
        return LocalAtoms(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def energy(self, find: Callable[[], float | None]) -> float | None:
        """See `Alone`."""
        energy: float | None = self._asked("energy", find)[0]
        return energy

    def agreed(self, verdict: int) -> int:
        """See `Alone`."""
        return int(max(uninterrupted(lambda: self._comm.allgather(verdict))))

    def handed_out(self, given: T) -> T:
        """See `Alone`."""
        found: T = uninterrupted(lambda: self._comm.bcast(given))
        return found

    def serve(self, local: Callable[[], LocalAtoms], energy: Callable[[], float | None]) -> None:
        """See `Alone`; what goes wrong here is raised in the first process."""
        answers: dict[str, Callable[[], Any]] = {"local": local, "energy": energy}

        def work() -> None:
            while (what := self._comm.bcast(None)) is not None:
                self._comm.gather(_tried(answers[what]))

        uninterrupted(work)

    def _asked(self, what: str, own: Callable[[], T]) -> list[T]:
        """What all processes answer, by rank; the first failure is raised when all have answered."""

        def work() -> list[Any]:
            self._comm.bcast(what)
            found: list[Any] = self._comm.gather(_tried(own))
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
