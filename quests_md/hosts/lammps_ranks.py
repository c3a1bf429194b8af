"""The processes of LAMMPS under MPI: the first one leads, the others do what it asks for, and none waits in vain."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

from quests_md._interrupts import uninterrupted
from quests_md.errors import MismatchError

__all__ = ["Alone", "Ranks", "ranks_of"]

T = TypeVar("T")

#: What finds each thing that the first process can ask for.
Answers: TypeAlias = dict[str, Callable[..., Any]]


class Alone:
    """One process, which has all atoms."""

    size, leads = 1, True

    def __init__(self) -> None:
        self._answers: Answers = {}

    def led(self, answers: Answers) -> AbstractContextManager[None]:
        """The time of a check; `answers`: what finds each thing that can be asked for."""
        self._answers = answers
        return nullcontext()

    def asked(self, what: str, *about: Any) -> list[Any]:
        """What all processes answer, one after the other."""
        return [self._answers[what](*about)]

    def agreed(self, verdict: int) -> int:
        """The largest of the numbers that the processes give."""
        return verdict

    def handed_out(self, given: T) -> T:
        """What the first process gives, in all of them."""
        return given

    def serve(self, answers: Answers) -> None:
        """Do what the first process asks for, until its check is over."""


class Ranks:
    """Several processes. All of them call `led` or `serve` at once, and `agreed` and `handed_out` after that.

    Within `led` the first process asks, and all answer at once; what an answer may need of others it has from
    `exchanged`. Interrupts wait: a process that left the others alone would let them wait for ever.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.size, self.leads = int(comm.size), comm.rank == 0
        self._answers: Answers = {}

    def require_same(self, *known: str) -> None:
        """Raise MismatchError, in all processes, if they do not know the same: reference and levels."""
        if len(set(self._comm.allgather(known))) > 1:
            raise MismatchError(
                "reference, calibration: expected the same ones in all processes of LAMMPS, got others; read both from "
                "files (Reference.save, Calibration.save)"
            )

    @contextmanager
    def led(self, answers: Answers) -> Iterator[None]:
        """The time of a check, in the first process: the others serve it, and are let go whatever happens."""
        self._answers = answers
        try:
            yield
        finally:
            self._answers = {}
            uninterrupted(lambda: self._comm.bcast(None))

    def asked(self, what: str, *about: Any) -> list[Any]:
        """See `Alone`, by rank; the first failure is raised when all have answered. LookupError outside of `led`."""
        answer = self._answers[what]

        def work() -> list[tuple[Any, Exception | None]]:
            self._comm.bcast((what, about))
            found: list[tuple[Any, Exception | None]] = self._comm.gather(_tried(answer, about))
            return found

        answers = uninterrupted(work)
        for rank, (_, failure) in enumerate(answers):
            if failure is not None:
                if rank:
                    failure.add_note(f"in process {rank} of LAMMPS")
                raise failure
        return [found for found, _ in answers]

    def agreed(self, verdict: int) -> int:
        """See `Alone`."""
        return int(max(uninterrupted(lambda: self._comm.allgather(verdict))))

    def handed_out(self, given: T) -> T:
        """See `Alone`."""
        found: T = uninterrupted(lambda: self._comm.bcast(given))
        return found

    def exchanged(self, parts: list[T]) -> list[T]:
        """What each process has for this one, where each gives a part for each; all processes call it at once."""
        found: list[T] = self._comm.alltoall(parts)
        return found

    def serve(self, answers: Answers) -> None:
        """See `Alone`; what goes wrong here is raised in the first process."""

        def work() -> None:
            while (asked := self._comm.bcast(None)) is not None:
                what, about = asked
                self._comm.gather(_tried(answers[what], about))

        uninterrupted(work)


def ranks_of(lmp: Any) -> Alone | Ranks:
    """The processes of an instance of LAMMPS.

    Raises
    ------
    ImportError
        LAMMPS runs on several processes, and mpi4py is not installed, or uses another library of MPI.
    """
    if lmp.extract_setting("world_size") == 1:
        return Alone()
    try:
        from mpi4py import MPI  # it begins MPI: only where LAMMPS has
    except ImportError as exc:
        raise ImportError(
            f'LAMMPS runs on several processes, and mpi4py is not there: pip install "quests_md[lammps]" ({exc})'
        ) from exc
    comm = lmp.get_mpi_comm() or MPI.COMM_WORLD
    if comm.size != lmp.extract_setting("world_size"):
        raise ImportError(
            f"mpi4py sees {comm.size} processes and LAMMPS {lmp.extract_setting('world_size')}: they use two libraries "
            "of MPI; install mpi4py for that of LAMMPS"
        )
    return Ranks(comm.Dup())


def _tried(find: Callable[..., Any], about: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return find(*about), None
    except Exception as exc:
        return None, exc
