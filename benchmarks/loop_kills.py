"""Loops of active learning that are killed at random moments, beside one that never is.

    python benchmarks/loop_kills.py --kills 300 --seed 1
    python benchmarks/loop_kills.py --kills 60 --seed 2 --errors     # levels from labels

Each loop is killed (SIGKILL) until it has ended, and loops are begun anew until there were so many kills. What is
compared with the loop that was never killed: the frames of the training set, to the bit, the reference, why it ended,
and the labels that were paid for: no frame is labelled twice, but for the one that a kill met. With --errors also the
frames kept apart with the forces of the model, the levels, and all that is known of each round.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from quests_md import Loop, calibrate

sys.path.insert(0, str(Path(__file__).parents[1]))  # the loop is that of tests/learn/test_loop.py
from tests.support.looped import kill_until_done, known_and_start, labelled_frames, loop_in, loop_of_errors


def main() -> None:
    """Kill loops, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--errors", action="store_true", help="levels from labels, in three rounds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    reference, start = known_and_start(in_motion=True)
    calibration, apart = calibrate(reference), labelled_frames(21, seed=5)

    def loop_of(name: str) -> Loop:
        if options.errors:
            return loop_of_errors(folder / name, reference, start, apart, max_rounds=3)
        return loop_in(folder / name, reference, start, calibration=calibration, n_per_round=4)

    loop, begin = loop_of("whole"), time.perf_counter()
    reason = loop.run()
    n_labels = sum(done.n_labelled for done in loop.rounds)
    seconds = time.perf_counter() - begin
    print(f"never killed: {reason}, {seconds:.1f} s", file=sys.stderr)
    chance, n_kills, n_loops, twice, faults = random.Random(options.seed), 0, 0, 0, []
    while n_kills < options.kills:
        name = f"loop-{n_loops}"
        n = kill_until_done(lambda name=name: loop_of(name).run(), chance, 0.15 * seconds, 1.1)
        n_kills, n_loops = n_kills + n, n_loops + 1
        again = loop_of(name)
        if again.run() != reason:
            faults.append(f"loop {n_loops}: {again.run()}")
        if [f.positions.tobytes() for f in again.labelled] != [f.positions.tobytes() for f in loop.labelled]:
            faults.append(f"loop {n_loops}: other frames")
        if again.reference.fingerprint != loop.reference.fingerprint:
            faults.append(f"loop {n_loops}: another reference")
        if again.rounds != loop.rounds or kept(again) != kept(loop):
            faults.append(f"loop {n_loops}: other rounds, frames kept apart, forces in them or levels")
        paid = Counter((folder / f"{name}.paid").read_text().split())
        twice += sum(paid.values()) - len(paid)
        if len(paid) != n_labels or sum(paid.values()) - len(paid) > n:
            faults.append(f"loop {n_loops}: {sum(paid.values())} labels paid for, {n_labels} wanted")
        print(f"{n_kills} kills, {len(faults)} faults", file=sys.stderr, flush=True)
        shutil.rmtree(folder / name)
    print(f"{n_loops} loops ({len(loop.rounds)} rounds, {n_labels} labels), {n_kills} kills:")
    print(f"{len(faults)} differences; {twice} labels were being kept when the kill came, and were made again")
    print("\n".join(faults))
    shutil.rmtree(folder)
    sys.exit(bool(faults))


def kept(loop: Loop) -> tuple:
    """The frames kept apart, the forces of the model in them, and the levels."""
    frames = [(frame.positions.tobytes(), frame.arrays["model_forces"].tobytes()) for frame in loop.apart]
    return frames, loop.calibration.describe(), loop.calibration.levels(loop.labelled[0]).tobytes()


if __name__ == "__main__":
    main()
