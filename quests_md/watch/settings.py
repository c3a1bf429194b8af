"""The header of a log: with what a run is watched."""

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from ase import Atoms

from quests_md._files import file_size
from quests_md._version import __version__
from quests_md.calibration import SAMPLE_ATOMS, SEED, SKETCH_ROWS, Calibration, kind_of, rate_of
from quests_md.judge import Judge
from quests_md.log import SCHEMA

__all__ = ["header_line"]


def header_line(
    atoms: Atoms,
    judge: Judge,
    *,
    trigger: Mapping[str, Any],
    baseline_ps: float | None,
    max_temperature_K: float | None,
    budget: float | None,
    files: Sequence[str],
) -> dict[str, Any]:
    """The header of a run that begins with a frame; `files`: those to which actions append."""
    n_atoms = len(atoms)
    numbers = np.asarray(atoms.numbers)[judge.reference.is_center(atoms.numbers)]
    return {
        "type": "header",
        "schema": SCHEMA,
        "version": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "reference": {
            "fingerprint": judge.reference.fingerprint,
            "n_environments": judge.reference.n_environments,
            "elements": list(judge.reference.elements),
            "bandwidth": judge.reference.bandwidth,
            "settings": judge.reference.settings,
        },
        "calibration": _calibration_line(judge, numbers),
        "budget": budget,
        "baseline_ps": baseline_ps,
        "phases": _phases_line(judge, len(numbers)),
        "max_temperature_K": max_temperature_K,
        "trigger": dict(trigger),
        "confirm": None if judge.confirm is None else _confirm_line(judge.confirm),
        "values": {
            "asked": judge.values,
            "used": judge.mode(n_atoms),
            "margin": judge.margin,
            "sample_atoms": SAMPLE_ATOMS,
            "sketch_rows": SKETCH_ROWS,
            "seed": SEED,
        },
        "files": {name: file_size(name) for name in files},
        "n_atoms": n_atoms,
    }


def _calibration_line(judge: Judge, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    calibration, levels = judge.calibration, judge.frame_levels(numbers)
    in_use = [level for level in levels if level.statistic in calibration.statistics]
    return {
        "level": max(level.value for level in levels if level.statistic == "dh_max"),
        "kind": kind_of(in_use),
        "false_alarms": calibration.false_alarms,
        "per": calibration.per,
        "rate": rate_of(in_use),
        "n_groups": calibration.n_groups,
        "fingerprint": calibration.fingerprint,
        "digest": _levels_digest(calibration),
        "checks": judge.checks or calibration.checks or 1,
        "statistics": list(calibration.statistics),
        "levels": [asdict(level) for level in levels],
        "atom_levels": {str(z): level for z, level in calibration.atom_levels.items()},
        "promise": judge.promise(numbers),
    }


def _confirm_line(second: Judge) -> dict[str, Any]:
    return {
        "reference": second.reference.fingerprint,
        "calibration": _levels_digest(second.calibration),
        "false_alarms": second.calibration.false_alarms,
        "per": second.calibration.per,
        "statistics": list(second.calibration.statistics),
    }


def _phases_line(judge: Judge, n_atoms: int) -> dict[str, Any] | None:
    if judge.phases is None:
        return None
    levels = {name: asdict(level) for name, level in judge.phase_levels(n_atoms).items()}
    return judge.phases.settings | {"levels": levels}


def _levels_digest(calibration: Calibration) -> str:
    """Checksum of all that levels are made of, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    settings = [
        calibration.checks,
        calibration.block_ps,
        calibration.spacing_ps,
        sorted(calibration.atom_levels.items()),
    ]
    digest.update(repr(settings).encode())
    for null in calibration.nulls:
        digest.update(repr((null.statistic, null.element, null.side, null.values)).encode())
        digest.update(np.ascontiguousarray(null.scores, dtype=np.float64).data)
        digest.update(np.ascontiguousarray(null.sizes, dtype=np.int64).data)
    return digest.hexdigest()
