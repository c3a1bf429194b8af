"""The loop of active learning: run, select, label, extend, refit, go on."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from quests_md._arguments import check_integer, check_positive, check_positive_integer
from quests_md._words import many
from quests_md.calibration import Calibration, calibrate
from quests_md.environments import frame_digest
from quests_md.errors import MismatchError
from quests_md.io import write_frames
from quests_md.judge import Judge
from quests_md.monitor import Monitor
from quests_md.reference import GivenReference, Reference, opened_reference
from quests_md.watch import Trigger

from .cutting import cut
from .labelling import Label, Labelled, Labeller, force_errors
from .round_files import RoundFiles, forces_of, generator, read_frames, read_json, write_json
from .running import MakeDynamics, RunEnd, made_dynamics, run_to_event
from .selection import NothingFitError, select

__all__ = ["Loop", "Round"]

#: Rounds in a row after which a loop ends whose frames stay beyond the levels although they were added.
STALLED = 3

#: Takes all labelled frames so far and returns the calculator of the next runs, or None to keep the one before.
Refit = Callable[[list[Atoms]], Any]


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of a loop has done."""

    number: int
    """From 0."""
    ends: tuple[str, ...]
    """How its runs have ended: "covered", "event", "exploded" or "failed"."""
    n_beyond: int
    """Frames beyond the levels."""
    n_chosen: int
    """Frames that were chosen to be labelled."""
    n_labelled: int
    """Frames that got labels."""
    n_failed: int
    """Frames that could not be labelled."""
    n_still_out: int
    """Frames that are beyond the new levels although they are in the new reference."""
    force_error: float | None
    """Root mean square of the force errors that the model had in the labelled frames, eV/Å; None: not known."""


class Limits(NamedTuple):
    """What ends a loop, None: no limit."""

    rounds: int | None
    labels: int | None
    error: float | None


class Loop:
    """Run a model, label what is new to it, refit it, and go on, until the runs stay within what is known.

    A round: runs go on until they leave the reference (an event) and 20 frames beyond it were checked, or for all
    steps; `select` chooses frames of the event that the reference lacks; these are labelled, the reference is extended
    by them, levels are carried to it (`Calibration.carried_to`), the model is refitted, and each run restarts from its
    last frame within the levels, with its momenta.

    All that is done is kept in the folder, file by file, and never done again: a loop that was killed, at whatever
    moment, goes on when it is made and run again. A run that was killed is made anew from its start with the same
    random numbers; no frame is labelled twice, whatever happens. A label that was being computed is computed again.

    Parameters
    ----------
    starts
        Atoms, or several, from which runs begin, with the calculator of the first runs; where one has none,
        ``refit([])`` makes it.
    make_dynamics
        Function of Atoms that returns an ASE dynamics which moves them. If it takes `rng`, or a second argument, it
        gets a `numpy.random.Generator` that depends on round and run alone; give it to thermostats (``rng=rng``).
    reference
        The training set, or the name of its file.
    label
        A calculator, a function or "files": see `Labeller`. With "files", `run` ends while labels are missing, and goes
        on when it is called again.
    refit
        Function of all labelled frames so far that returns the calculator of the next runs, or None for that of the
        starts. It is called before the runs of each round but the first, also when a loop is taken up again; the last
        labels are yours to fit (`labelled`). None: the model stays as it is.
    calibration
        Levels for the reference; default `calibrate(reference)`.
    trigger
        What opens an event; default that of `Monitor`.
    n_per_round
        Frames that are labelled in a round at most.
    folder
        Where everything is kept.
    max_atoms
        Most atoms of what is labelled: of larger frames a cell is cut around what is strange (`cut`), with an array
        ``core`` of the atoms whose forces can be trusted; frames whose cells are refused are not labelled. Default: no
        limit.
    steps, interval
        Steps of a run, and between two checks.
    max_rounds, max_labels
        Rounds, and labels in all, after which the loop ends; default no limit.
    target_error
        Force error in eV/Å, root mean square over the frames of a round, at which the loop ends; default none.
    seed
        Of the random numbers.
    threads
        As in `Monitor`.

    Raises
    ------
    ValueError, TypeError, MismatchError
        If an argument is not usable, or the folder is of a loop with other settings; says which.

    Examples
    --------
    >>> loop = Loop(atoms, make_dynamics, "train.safetensors", label=EMT(), refit=fit, folder="loop")  # doctest: +SKIP
    >>> print(loop.run())                                                                         # doctest: +SKIP
    covered: no run of 10000 steps left what is known (2 rounds, 31 labels)
    """

    def __init__(
        self,
        starts: Atoms | Sequence[Atoms],
        make_dynamics: MakeDynamics,
        reference: GivenReference,
        *,
        label: Label,
        refit: Refit | None = None,
        calibration: Calibration | None = None,
        trigger: Trigger | None = None,
        n_per_round: int = 20,
        folder: str | os.PathLike[str] = "loop",
        max_atoms: int | None = None,
        steps: int = 10_000,
        interval: int = 10,
        max_rounds: int | None = None,
        max_labels: int | None = None,
        target_error: float | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self._starts = [starts] if isinstance(starts, Atoms) else list(starts)
        if not self._starts or not all(isinstance(start, Atoms) for start in self._starts):
            raise TypeError("starts: expected Atoms, or a list of them, with one at least")
        for name, value in (("n_per_round", n_per_round), ("steps", steps), ("interval", interval)):
            check_positive_integer(name, value)
        for name, limit in (("max_rounds", max_rounds), ("max_labels", max_labels), ("max_atoms", max_atoms)):
            if limit is not None:
                check_positive_integer(name, limit)
        if target_error is not None:
            check_positive("target_error", target_error, "force error in eV/Å, or None")
        check_integer("seed", seed, 0)
        self.folder = Path(folder)
        self._make_dynamics, self._refit, self._trigger, self._threads = make_dynamics, refit, trigger, threads
        self._limits = Limits(max_rounds, max_labels, target_error)
        self._settings: dict[str, Any] = {"n_per_round": n_per_round, "steps": steps, "interval": interval}
        self._settings |= {"seed": seed, "max_atoms": max_atoms}
        self._read: dict[int, tuple[Reference, Calibration]] = {}
        self.labeller = Labeller(label, self.folder)
        self._begin(opened_reference(reference), calibration)
        #: The rounds that are done.
        self.rounds: list[Round] = []
        while (done := read_json(RoundFiles(self.folder, len(self.rounds)).path("round.json"))) is not None:
            self.rounds.append(Round(**done | {"ends": tuple(done["ends"])}))

    @property
    def reference(self) -> Reference:
        """The reference with all frames that were labelled."""
        return self._known(len(self.rounds))[0]

    @property
    def calibration(self) -> Calibration:
        """The levels of `reference`."""
        return self._known(len(self.rounds))[1]

    @property
    def labelled(self) -> list[Atoms]:
        """All frames that were labelled, in the order of rounds, with energy and forces."""
        return [frame for number in range(len(self.rounds)) for frame in self._labelled_in(number)]

    def run(self) -> str:
        """Go on until there is a reason to end, which is returned in words.

        "covered": no run of a round left what is known. "nothing new": a round gave no frame that could be labelled.
        "stalled": in three rounds all frames that were labelled stayed beyond the levels. "labels", "rounds", "error":
        a limit is reached. "waiting": labels are missing in the folder.
        """
        while (reason := self._reason_to_end()) is None:
            files = RoundFiles(self.folder, len(self.rounds))
            ends = self._runs(files)
            chosen = self._chosen(files, [frame for end in ends for frame in end.beyond])
            labelled = self.labeller.label(chosen)
            if labelled.waiting:
                n, there = many(len(labelled.waiting), "frame"), self.folder / "labels"
                return (
                    f"waiting: {n} in {self.folder / 'to-label'} to be labelled; put each with energy and forces under "
                    f"its name into {there} and run the loop again"
                )
            if labelled.failed and not labelled.frames:  # as where a program is missing: the round is not done
                why = next(iter(labelled.failed.values()))
                return (
                    f"nothing new: all {many(len(chosen), 'frame')} chosen failed to be labelled, the first by {why}; "
                    f"remove the files in {self.folder / 'failed'} and run the loop again to try once more"
                )
            self.rounds.append(self._learn(files, ends, chosen, labelled))
        return reason

    def _begin(self, reference: Reference, calibration: Calibration | None) -> None:
        """Write what the loop begins with, or compare it with what the folder has."""
        path = self.folder / "loop.json"
        starts = [frame_digest(start) for start in self._starts]
        settings = self._settings | {"reference": reference.fingerprint, "starts": starts}
        settings["trigger"] = None if self._trigger is None else self._trigger.settings
        settings["calibration"] = None
        if calibration is not None:
            calibration.require(reference)
            settings["calibration"] = [calibration.false_alarms, calibration.per, list(calibration.statistics)]
        before = read_json(path)
        if before is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (calibration or calibrate(reference, threads=self._threads)).save(self.folder / "calibration.json")
            reference.save(self.folder / "reference.safetensors")
            write_json(path, settings)
            return
        for name, value in settings.items():
            if before.get(name) != value:
                raise MismatchError(
                    f"{path}: {name} was {before.get(name)} when the loop began, and is {value} now; give the same "
                    "settings, or another folder"
                )

    def _known(self, number: int) -> tuple[Reference, Calibration]:
        """Reference and levels at the beginning of a round; those that were read last are kept."""
        if number not in self._read:
            folder = self.folder if number == 0 else RoundFiles(self.folder, number - 1).folder
            known = Reference.load(folder / "reference.safetensors"), Calibration.load(folder / "calibration.json")
            self._read = {number: known}
        return self._read[number]

    def _labelled_in(self, number: int) -> list[Atoms]:
        return read_frames(RoundFiles(self.folder, number).path("labelled.extxyz")) or []

    def _runs(self, files: RoundFiles) -> list[RunEnd]:
        """How the runs of a round have ended; those that have not are made."""
        number = files.number
        if number:
            before = RoundFiles(self.folder, number - 1)
            files.begin([end.restart for k in range(len(self._starts)) if (end := before.run(k)) is not None])
        else:
            files.begin(self._starts)
        starts = files.starts() or []
        missing = [k for k in range(len(starts)) if files.run(k) is None]
        if missing:
            is_lacking = any(self._starts[k].calc is None for k in missing)
            model = self._refit(self.labelled) if self._refit is not None and (number or is_lacking) else None
            reference, calibration = self._known(number)
        for k in missing:
            atoms = starts[k]
            atoms.calc = self._starts[k].calc if model is None else model
            log = files.path(f"run-{k}.jsonl")
            log.unlink(missing_ok=True)  # of a run that was killed
            dyn = made_dynamics(self._make_dynamics, atoms, generator(self._settings["seed"], number, k))
            options: dict[str, Any] = {"trigger": self._trigger, "on_error": "raise", "threads": self._threads}
            with Monitor(reference, calibration, log=log, verbose=False, **options) as monitor:
                wanted = {name: self._settings[name] for name in ("steps", "interval")}
                files.write_run(k, run_to_event(dyn, atoms, monitor, n_beyond=self._settings["n_per_round"], **wanted))
        return [end for k in range(len(starts)) if (end := files.run(k)) is not None]

    def _chosen(self, files: RoundFiles, beyond: Sequence[Atoms]) -> list[Atoms]:
        """The frames of a round that are to be labelled."""
        path = files.path("chosen.extxyz")
        chosen = read_frames(path)
        if chosen is not None:
            return chosen
        chosen, n = [], self._settings["n_per_round"]
        if self._limits.labels is not None:
            n = min(n, self._limits.labels - sum(done.n_labelled for done in self.rounds))
        reference = self._known(files.number)[0]
        with suppress(NothingFitError):
            chosen = select(beyond, reference, n=n, threads=self._threads).frames if beyond else []
        chosen = [cell for frame in chosen if (cell := self._cell_of(frame, reference)) is not None]
        write_frames(path, chosen)
        return chosen

    def _cell_of(self, frame: Atoms, reference: Reference) -> Atoms | None:
        """What is labelled of a frame: a cell cut out of it if it is too large, with the model's forces; or nothing."""
        most = self._settings["max_atoms"]
        if most is None or len(frame) <= most:
            return frame
        with suppress(ValueError):  # nothing is strange enough, or does not fit
            found = cut(frame, reference=reference, max_atoms=most, threads=self._threads)
            if not found.refused:
                cell: Atoms = found.atoms.copy()
                forces = forces_of(frame)
                if forces is not None:
                    cell.calc = SinglePointCalculator(cell, forces=forces[cell.arrays["original_index"]])
                return cell
        return None

    def _learn(self, files: RoundFiles, ends: list[RunEnd], chosen: list[Atoms], labelled: Labelled) -> Round:
        """Extend the reference by labelled frames and carry the levels to it."""
        # read anew, as after a kill: a reference that was searched hands its structures on, and last bits change
        self._read.clear()
        reference, calibration = self._known(files.number)
        frames = labelled.frames
        if frames:
            reference = reference.extend(frames, groups=[f"loop, round {files.number}"] * len(frames))
            try:
                calibration = calibration.carried_to(reference, threads=self._threads)
            except MismatchError:  # levels of a kind that cannot be carried
                calibration = calibrate(reference, threads=self._threads)
        write_frames(files.path("labelled.extxyz"), frames)
        reference.save(files.path("reference.safetensors"))
        calibration.save(files.path("calibration.json"))
        judge = Judge(reference, calibration, threads=self._threads)
        by_name = {frame_digest(frame): forces_of(frame) for frame in chosen}
        done = Round(
            number=files.number,
            ends=tuple(end.end for end in ends),
            n_beyond=sum(len(end.beyond) for end in ends),
            n_chosen=len(chosen),
            n_labelled=len(frames),
            n_failed=len(labelled.failed),
            n_still_out=sum(judge.judge(frame, step=0, frame=0).check.state == "out" for frame in frames),
            force_error=force_errors(frames, [by_name.get(frame_digest(frame)) for frame in frames]),
        )
        write_json(files.path("round.json"), asdict(done))
        return done

    def _reason_to_end(self) -> str | None:
        if not self.rounds:
            return None
        last, limits = self.rounds[-1], self._limits
        n_labels = sum(done.n_labelled for done in self.rounds)
        so_far = f"({many(len(self.rounds), 'round')}, {many(n_labels, 'label')})"
        recent = self.rounds[-STALLED:]
        if set(last.ends) == {"covered"}:
            return f"covered: no run of {self._settings['steps']} steps left what is known {so_far}"
        if not last.n_labelled:
            ends = " and ".join(sorted(set(last.ends)))
            what = f"its runs ended {ends}: {many(last.n_beyond, 'frame')} beyond, {last.n_chosen} chosen"
            return f"nothing new: the last round added no labels ({what}) {so_far}"
        if limits.error is not None and last.force_error is not None and last.force_error <= limits.error:
            return f"error: forces were {last.force_error:.3g} eV/Å off in the frames of the last round {so_far}"
        if limits.labels is not None and n_labels >= limits.labels:
            return f"labels: all {limits.labels} are spent {so_far}"
        if limits.rounds is not None and len(self.rounds) >= limits.rounds:
            return f"rounds: all {limits.rounds} are done {so_far}"
        if len(recent) == STALLED and all(done.n_still_out == done.n_labelled for done in recent):
            return f"stalled: in {STALLED} rounds all frames that were labelled stayed beyond the levels {so_far}"
        return None
