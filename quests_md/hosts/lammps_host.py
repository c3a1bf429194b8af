"""Steps and times of LAMMPS as the log counts them."""

from .lammps_frame import Lammps

__all__ = ["LammpsHost"]


class LammpsHost:
    """LAMMPS as a run that is watched sees it: its step and time, counted on where LAMMPS counts anew."""

    def __init__(self, lammps: Lammps) -> None:
        self._lammps = lammps
        self._seen: int | None = None  # LAMMPS's own step that was seen last
        self._step_offset, self._time_offset_ps = 0, 0.0
        self._last_time_ps: float | None = None
        self.is_setup = True
        """Whether the step is shown by the setup of a run: velocities are those of the step itself."""

    @property
    def own_step(self) -> int:
        """LAMMPS's own count of steps."""
        return self._lammps.step

    @property
    def repeats_digits(self) -> bool:
        """Whether a frame that is shown again has the same positions to the last digit.

        In a tilted box LAMMPS turns positions into fractions and back, at the start of each run too.
        """
        return not self._lammps.is_tilted

    def take_over(self, previous: "LammpsHost") -> None:
        """Count on from where `previous`, of the same run, has come to."""
        self._seen, self._last_time_ps = previous._seen, previous._last_time_ps
        self._step_offset, self._time_offset_ps = previous._step_offset, previous._time_offset_ps

    def follow(self, step: int) -> None:
        """Take a step that LAMMPS shows: of a run the next one, or the one seen last again, in a setup."""
        seen = self._seen
        self.is_setup = seen is None or step != seen + 1
        if seen is not None and step < seen:  # reset_timestep, clear, rerun: it counts anew
            self._step_offset += seen - step
            if self._last_time_ps is not None:
                self._time_offset_ps = self._last_time_ps - (self._lammps.time_ps(step) or 0.0)
        self._seen = step
        own = self._lammps.time_ps(step)
        self._last_time_ps = None if own is None else own + self._time_offset_ps

    @property
    def step(self) -> int:
        """The step in the log of the step that was seen last."""
        return (self._seen or 0) + self._step_offset

    @property
    def time_ps(self) -> float | None:
        """Its time; None in units that have none."""
        return self._last_time_ps

    def step_length_ps(self) -> float | None:
        """The time step; None in units that have none."""
        return self._lammps.step_length_ps()

    def continue_at(self, step: int, time_ps: float | None, *, checked: int) -> None:
        """Count from here on as if the present step were `step` of the run in the log."""
        self._step_offset = step - self.own_step
        own = self._lammps.time_ps(self.own_step)
        if time_ps is not None and own is not None:
            self._time_offset_ps = time_ps - own
            self._last_time_ps = time_ps
