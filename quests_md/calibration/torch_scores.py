"""Local scores on a device of torch, and how far the CPU's may be from them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from quests_md.engine import KernelRegression

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["DeviceScorer", "DeviceScores"]


class DeviceScores(NamedTuple):
    """Local scores of m environments, on the device."""

    scores: Any  #: (m,) deviations; inf where nothing is known of the element.
    errors: Any  #: (m,) the CPU's score is no farther away; inf where nothing is proven.


class DeviceScorer:
    """The landmarks of a `LocalScorer` on a device.

    `regressions`: by atomic number, or one of all elements; `bandwidth` in 1/Å; `least`: the least scatter in nats.
    """

    def __init__(
        self,
        regressions: Mapping[int, KernelRegression],
        device: str,
        *,
        bandwidth: float,
        least: float,
        is_of_any: bool,
    ) -> None:
        self.device = device
        self._regressions = {z: regression.on(device) for z, regression in regressions.items()}
        self._bandwidth, self._least2, self._is_of_any = bandwidth, least**2, is_of_any

    def scores(self, rows: Any, numbers: Any, noise: Any) -> DeviceScores:
        """Scores of rows (m, width) in 1/Å of atoms of these atomic numbers (m,).

        `noise` (m,): how far each row may be from that of the CPU, in 1/Å.
        """
        found = DeviceScores(*(torch.full_like(noise, torch.inf) for _ in range(2)))
        for z, regression in self._regressions.items():
            where = (torch.ones_like(numbers) if self._is_of_any else numbers == z).nonzero()[:, 0]
            if len(where):
                dh, means, entropy_error, errors = regression.at(rows[where], noise[where] / self._bandwidth)
                (usual, scatter), (usual_error, scatter_error) = means.T, errors.T
                above, error = dh - usual, entropy_error + usual_error
                width, lowest, highest = (
                    ((scatter + by).clamp(min=0.0) + self._least2).sqrt() for by in (0.0, -scatter_error, scatter_error)
                )
                doubt = torch.maximum(1.0 / lowest - 1.0 / width, 1.0 / width - 1.0 / highest)
                found.scores[where] = above / width
                found.errors[where] = (error / lowest + above.abs() * doubt + 1e-12).nan_to_num(torch.inf)
        return found
