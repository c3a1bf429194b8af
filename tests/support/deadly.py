"""A descriptor whose calls may end the process that makes them."""

import os
import signal
import time
from pathlib import Path

from quests_md import Descriptor


class Deadly:
    """Rows of a plain `Descriptor`; frames whose atoms have a charge kill every process but the one that made this.

    A charge of 1 kills the first that comes while the file `once` is there; 2 kills each of them. Frames with a charge
    of 3 cannot be described anywhere.
    """

    fingerprint = "plain rows, deadly"

    def __init__(self, once):
        self.once = Path(once)
        self.home = os.getpid()
        self.descriptor = Descriptor()

    def __call__(self, atoms):
        charge = atoms.get_initial_charges()[0] if atoms.has("initial_charges") else 0
        if charge == 3:
            raise ArithmeticError("a frame that cannot be described")
        if os.getpid() != self.home and (charge == 2 or (charge == 1 and self.once.exists())):
            self.once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return self.descriptor(atoms)
