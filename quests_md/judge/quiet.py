"""The check of a frame that was judged on its device, and found quiet there."""

import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS, Calibration, LocalScorer, Mode
from quests_md.environments import FrameFacts, PairDistances, describe, element_symbol
from quests_md.records import Check
from quests_md.reference import Reference

from .frame_kinds import FrameKind
from .judged import Judged, LateRows, fields_of_excesses
from .modes import DEAR, FIELDS, Environments, evaluate_full, evaluate_unknown
from .on_device import quiet_frame

__all__ = ["judged_there"]


def judged_there(
    frame: Atoms,
    facts: FrameFacts,
    kind: FrameKind,
    mode: Mode,
    before: dict[str, Any],
    start: float,
    of: tuple[Reference, Calibration, LocalScorer, PairDistances],
    how: tuple[float, float, int | None],
) -> Judged | None:
    """A frame judged on its device; None: it is to be judged on the CPU.

    `before`: fields of the check that are known before; `start`: when it began, of `perf_counter`; `of`: reference,
    levels, and what was made of these; `how`: release, margin and threads of the `Judge`.
    """
    (reference, calibration, scorer, pair_distances), (release, margin, threads) = of, how
    if facts.not_finite:
        return None
    environments = Environments(
        atoms=frame,
        identities=facts.identities,
        rows=np.empty((len(frame), 0)),
        known=kind.known,
        levels=kind.dh_levels,
        atom_levels=kind.atom_levels,
        pair_distances=pair_distances,
    )
    found = evaluate_unknown(environments, margin)
    is_full = mode == "full"
    quiet = quiet_frame(frame, found, kind, reference, calibration, scorer, release, threads, needs_rows=is_full)
    if quiet is None:
        return None
    if is_full:
        these = replace(environments, rows=quiet.rows.cpu().numpy())
        found = evaluate_full(reference, these, threads, is_judged=False)
    own: dict[str, Any] = {name: None for name in STATISTICS if name in FIELDS}
    own |= {name: STATISTICS[name].of(found) for name in own if name not in DEAR}
    above, tail = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    above[quiet.above], tail[quiet.tail] = True, True
    scores, descriptor = quiet.scores, reference.descriptor
    check = Check(
        **before,
        **own,
        **fields_of_excesses(quiet.excesses),
        n_above=len(quiet.above),
        largest_cluster=quiet.largest_cluster,
        excess=quiet.excess,
        worst_atom=quiet.worst,
        worst_element=element_symbol(int(frame.numbers[quiet.worst])),
        further=quiet.values,
        elapsed_us=(time.perf_counter() - start) * 1e6,
        delta_entropy=found.dh,
        above=above,
        local_score=cast("NDArray[np.float64]", LateRows(lambda: np.asarray(scores.cpu().numpy()))),
    )
    return Judged(
        check,
        LateRows(lambda: describe(descriptor, frame, threads)),
        tail=tail,
        fastest_K=facts.fastest_K,
        unpromised=kind.unpromised,
        averaged=calibration.landmarks is None or calibration.landmarks.averaged,
    )
