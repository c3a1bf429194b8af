"""The loop of active learning: run, select, label, extend, refit, go on."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from quests_md._arguments import check_integer, check_positive, check_positive_integer
from quests_md.calibration import Calibration, ErrorCalibration, calibrate, why_not_carried
from quests_md.environments import frame_digest
from quests_md.errors import MismatchError
from quests_md.io import write_frames
from quests_md.judge import Judge
from quests_md.monitor import Monitor
from quests_md.reference import GivenReference, Reference, opened_reference
from quests_md.watch import Trigger

from .cutting import cut
from .ending import Limits, Round, reason_to_end, reason_to_wait
from .kept_apart import KeptApart, Visits, divided, doubts, errors_in, expected_in_runs, ratio_of_errors
from .labelling import Label, Labelled, Labeller, force_errors
from .models import Models, Refit, fresh
from .round_files import RoundFiles, forces_of, generator, read_frames, read_json, write_json
from .running import MakeDynamics, RunEnd, made_dynamics, run_to_event
from .selection import NothingFitError, select

__all__ = ["Loop"]


class Loop:
    """Run a model, label what is new to it, refit it, and go on, until the runs stay within what is known.

    A round: runs go on until they leave the reference (an event) and `n_per_round` frames beyond it were checked, or
    for all steps; `select` chooses frames of the event that the reference lacks; these are labelled, the reference is
    extended by them, levels are carried to it (`Calibration.carried_to`), the model is refitted, and each run restarts
    from its last frame within the levels, with its momenta. Where a run has exploded and no frame beyond is fit to be
    labelled, frames from before the explosion are.

    With `tolerance` and `apart`, levels are made anew after each round, from labels (`calibrate_errors`): every fifth
    label is kept apart from reference and fit, so that the kept-apart frames follow the runs, the refitted model is
    asked once for its forces in all of them, and the levels are those above which more forces err than may. What lies
    beyond the labels is unknown, and out.

    All that is done is kept in the folder, file by file, and never done again: a loop that was killed, at whatever
    moment, goes on when it is made and run again. A run that was killed is made anew from its start with the same
    random numbers; no frame is labelled twice, whatever happens. A label that was being computed is computed again.

    Parameters
    ----------
    starts
        Atoms, or several, from which runs begin, with the calculator of the first runs; where one has none,
        ``refit([])`` makes it. With `apart`, the model of the first levels is that of the first start.
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
        labels are yours to fit (`labelled`), but with `apart`, where it is called after each round, also the last.
        None: the model stays as it is.
    calibration
        Levels for the reference, which can be carried to a larger one; default `calibrate(reference)`.
    trigger
        What opens an event; default that of `Monitor`.
    n_per_round
        Frames that are labelled in a round at most, and frames beyond what is known after which a run ends.
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
        Force error in eV/Å at which the loop ends: that measured in the new frames of a round (root mean square); with
        `apart` also that expected of the atoms in all frames that the runs of this round visited (mean), which has to
        be known. Default none.
    tolerance
        Force error in eV/Å that is still good: levels are made from labels. Needs `apart`.
    apart
        Labelled frames or files that neither the reference nor the fit of any model knows, with forces in eV/Å: 19
        independent groups of frames at least, or the levels are unknown. Groups are those of `info["group"]`, where all
        frames have it, else as in `Reference.from_frames`. Needs `tolerance`.
    seed
        Of the random numbers.
    threads
        As in `Monitor`.

    Raises
    ------
    ValueError, TypeError, MismatchError
        If an argument is not usable, levels cannot be carried, or the folder is of a loop with other settings; says
        which.

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
        tolerance: float | None = None,
        apart: Any = None,
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
        self._apart = _apart_of(tolerance, apart, calibration)
        self.folder = Path(folder)
        self._make_dynamics, self._trigger, self._threads = make_dynamics, trigger, threads
        self._models = Models(self._starts, refit)
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
        """The reference with all frames that were labelled and not kept apart."""
        return self._known(len(self.rounds))[0]

    @property
    def calibration(self) -> Calibration:
        """The levels of `reference`."""
        return self._known(len(self.rounds))[1]

    @property
    def labelled(self) -> list[Atoms]:
        """All frames that were labelled and not kept apart, in the order of rounds, with energy and forces."""
        return self._labelled_before(len(self.rounds))

    @property
    def apart(self) -> list[Atoms]:
        """All frames kept apart, with their true forces and, as an array "model_forces", those of the last model."""
        return self._apart_before(len(self.rounds))

    def run(self) -> str:
        """Go on until there is a reason to end, which is returned in words.

        "covered": no run of a round left what is known. "nothing new": a round gave no frame that could be labelled.
        "stalled": in three rounds all frames that were labelled stayed beyond the levels, or were from before an
        explosion and force errors did not fall. "labels", "rounds", "error": a limit is reached. "waiting": labels are
        missing in the folder. What levels from labels do not tell is added.
        """
        tolerance = None if self._apart is None else self._apart.tolerance
        while (reason := reason_to_end(self.rounds, self._limits, self._settings["steps"], tolerance)) is None:
            files = RoundFiles(self.folder, len(self.rounds))
            ends = self._runs(files)
            chosen = self._chosen(files.path("chosen.extxyz"), [frame for end in ends for frame in end.beyond], True)
            if not chosen and (before := [frame for end in ends for frame in end.before]):
                chosen = self._chosen(files.path("chosen-before.extxyz"), before, False)
            labelled = self.labeller.label(chosen)
            if (lacking := reason_to_wait(labelled, self.folder)) is not None:
                return lacking
            self.rounds.append(self._learn(files, ends, chosen, labelled))
        doubt = doubts(levels, self._starts) if isinstance(levels := self.calibration, ErrorCalibration) else ""
        return f"{reason}; {doubt}" if doubt else reason

    def _begin(self, reference: Reference, calibration: Calibration | None) -> None:
        """Write what the loop begins with, or compare it with what the folder has."""
        path = self.folder / "loop.json"
        starts = [frame_digest(start) for start in self._starts]
        settings = self._settings | {"reference": reference.fingerprint, "starts": starts}
        settings["trigger"] = None if self._trigger is None else self._trigger.settings
        settings |= {"calibration": None} | KeptApart.settings_of(self._apart)
        if calibration is not None:
            calibration.require(reference)
            settings["calibration"] = [calibration.false_alarms, calibration.per, list(calibration.statistics)]
        before = read_json(path)
        if before is not None:
            _require_equal(path, before, settings)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._apart is not None:
            model = self._models.of_round(0, list)[0]
            calibration = self._apart.first_levels(reference, model, self.folder, self._starts, self._threads)
        (calibration or calibrate(reference, threads=self._threads)).save(self.folder / "calibration.json")
        reference.save(self.folder / "reference.safetensors")
        write_json(path, settings)

    def _known(self, number: int) -> tuple[Reference, Calibration]:
        """Reference and levels at the beginning of a round; those that were read last are kept."""
        if number not in self._read:
            folder = self.folder if number == 0 else RoundFiles(self.folder, number - 1).folder
            known = Reference.load(folder / "reference.safetensors"), Calibration.load(folder / "calibration.json")
            self._read = {number: known}
        return self._read[number]

    def _labelled_before(self, number: int) -> list[Atoms]:
        files = [RoundFiles(self.folder, before).path("labelled.extxyz") for before in range(number)]
        return [frame for path in files for frame in read_frames(path) or []]

    def _apart_before(self, number: int) -> list[Atoms]:
        """The frames kept apart at the beginning of a round, with the forces of its model."""
        folder = self.folder if number == 0 else RoundFiles(self.folder, number - 1).folder
        return read_frames(folder / "apart.extxyz") or []

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
            models = self._models.of_round(number, lambda: self._labelled_before(number))
            reference, calibration = self._known(number)
        for k in missing:
            atoms = starts[k]
            atoms.calc = fresh(models[k])
            log = files.path(f"run-{k}.jsonl")
            log.unlink(missing_ok=True)  # of a run that was killed
            dyn = made_dynamics(self._make_dynamics, atoms, generator(self._settings["seed"], number, k))
            visits = Visits(atoms)
            if self._apart is not None:
                dyn.attach(visits, self._settings["interval"])
            options: dict[str, Any] = {"trigger": self._trigger, "on_error": "raise", "threads": self._threads}
            with Monitor(reference, calibration, log=log, verbose=False, **options) as monitor:
                wanted = {name: self._settings[name] for name in ("steps", "interval")}
                end = run_to_event(dyn, atoms, monitor, n_beyond=self._settings["n_per_round"], **wanted)
            if isinstance(calibration, ErrorCalibration):
                visits.write_errors(files, k, calibration, reference, self._threads)
            files.write_run(k, end)
        return [end for k in range(len(starts)) if (end := files.run(k)) is not None]

    def _chosen(self, path: Path, frames: Sequence[Atoms], is_strange: bool) -> list[Atoms]:
        """Those of a round's frames that are to be labelled."""
        chosen = read_frames(path)
        if chosen is None:
            n = self._settings["n_per_round"]
            if self._limits.labels is not None:
                n = min(n, self._limits.labels - sum(done.n_labelled for done in self.rounds))
            chosen = _to_label(frames, self.reference, n, self._settings["max_atoms"], is_strange, self._threads)
            write_frames(path, chosen)
        return chosen

    def _learn(self, files: RoundFiles, ends: list[RunEnd], chosen: list[Atoms], labelled: Labelled) -> Round:
        """Extend the reference by labelled frames, and carry the levels to it or make them anew."""
        # read anew, as after a kill: a reference that was searched hands its structures on, and last bits change
        self._read.clear()
        reference, calibration = self._known(files.number)
        group = f"loop, round {files.number}"
        learnt, apart = labelled.frames, list[Atoms]()
        if self._apart is not None:
            learnt, apart = divided(learnt, sum(done.n_labelled for done in self.rounds), group)
        write_frames(files.path("labelled.extxyz"), learnt)
        if learnt:
            reference = reference.extend(learnt, groups=[group] * len(learnt))
        errors: dict[str, float | None] = {}
        if isinstance(calibration, ErrorCalibration) and self._apart is not None:
            errors["expected_error"] = expected_in_runs(files, len(ends), calibration.share)
            before, n = self._apart_before(files.number), files.number + 1
            now, path = before, files.path("apart.extxyz")
            if labelled.frames:
                model = self._models.of_round(n, lambda: self._labelled_before(n))[0]
                calibration, now = self._apart.new_levels(reference, model, [*before, *apart], path, self._threads)
            write_frames(path, now)
            errors |= {"apart_error": errors_in(now), "error_ratio": ratio_of_errors(before, now)}
        else:
            calibration = calibration.carried_to(reference, threads=self._threads)
        reference.save(files.path("reference.safetensors"))
        calibration.save(files.path("calibration.json"))
        judge = Judge(reference, calibration, threads=self._threads)
        by_name = {frame_digest(frame): forces_of(frame) for frame in chosen}
        done = Round(
            number=files.number,
            ends=tuple(end.end for end in ends),
            n_beyond=sum(len(end.beyond) for end in ends),
            n_chosen=len(chosen),
            n_labelled=len(labelled.frames),
            n_still_out=sum(judge.judge(frame, step=0, frame=0).check.state == "out" for frame in learnt),
            force_error=force_errors(labelled.frames, [by_name.get(frame_digest(one)) for one in labelled.frames]),
            n_apart=len(apart),
            n_before=len(read_frames(files.path("chosen-before.extxyz")) or []),
            **errors,
        )
        write_json(files.path("round.json"), asdict(done))
        return done


def _require_equal(path: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """MismatchError unless a loop has the settings with which it began."""
    for name, value in settings.items():
        if before.get(name) != value:
            raise MismatchError(
                f"{path}: {name} was {before.get(name)} when the loop began, and is {value} now; give the same "
                "settings, or another folder"
            )


def _apart_of(tolerance: float | None, apart: Any, calibration: Calibration | None) -> KeptApart | None:
    """The frames kept apart, if levels are to come from labels; raises for levels that a loop cannot go on with."""
    if isinstance(calibration, ErrorCalibration):
        raise MismatchError(
            "calibration: levels from labels are for one reference and one model, and a loop changes both; give "
            "tolerance= and apart= (labelled frames), so that the loop makes them anew after each round"
        )
    if calibration is not None and (why := why_not_carried(calibration)) is not None:
        raise MismatchError(f"calibration: {why}; a loop needs levels that it can carry to its growing reference")
    if tolerance is None and apart is None:
        return None
    if tolerance is None or apart is None:
        raise ValueError(
            "tolerance, apart: expected both or neither, got one; levels from labels need the force error in eV/Å that "
            "is still good, and labelled frames that neither the reference nor the fit of the model knows"
        )
    if calibration is not None:
        raise ValueError("calibration: expected none beside tolerance and apart, from which the loop makes its levels")
    return KeptApart(apart, tolerance)


def _to_label(
    frames: Sequence[Atoms], reference: Reference, n: int, most: int | None, is_strange: bool, threads: int | None
) -> list[Atoms]:
    """At most n of the frames, or cells of them, that are fit to be labelled, the best first.

    Cells are cut around what is strange or, where nothing has to be, around the strangest atom.
    """
    if not frames:
        return []
    try:
        found = select(frames, reference, n=n, threads=threads)
    except NothingFitError:
        return []
    cells = [
        _cell_of(one.atoms, None if is_strange else int(one.strange[0]), reference, most, threads) for one in found
    ]
    return [cell for cell in cells if cell is not None]


def _cell_of(
    frame: Atoms, center: int | None, reference: Reference, most: int | None, threads: int | None
) -> Atoms | None:
    """What is labelled of a frame: a cell cut out of it if it is too large, with the model's forces; or nothing."""
    if most is None or len(frame) <= most:
        return frame
    with suppress(ValueError):  # nothing is strange enough, or does not fit
        found = cut(frame, center, reference=reference, max_atoms=most, threads=threads)
        if not found.refused:
            cell: Atoms = found.atoms.copy()
            forces = forces_of(frame)
            if forces is not None:
                cell.calc = SinglePointCalculator(cell, forces=forces[cell.arrays["original_index"]])
            return cell
    return None
