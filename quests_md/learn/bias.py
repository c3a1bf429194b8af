"""An ASE calculator that adds a bias to any other, which drives a run towards environments that are not known."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.io.trajectory import OldCalculatorWrapper
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from quests_md._arguments import check_integer, check_not_negative, check_positive, is_number
from quests_md.environments import TimeAveraged
from quests_md.errors import FrameError, UnsuitableFrameError
from quests_md.reference import GivenReference, Reference, opened_reference

from .known_smooth import BoundedEntropy, KnownSmooth

__all__ = ["EntropyBias"]

#: Results of the calculator within that are handed on as they are.
HANDED_ON = ("dipole", "charges", "magmom", "magmoms")

#: A geometry tells the strength while this share of the push is left that there would be without the bound.
LEAST_PUSH = 0.5


class EntropyBias(Calculator):
    """An ASE calculator that pushes atoms out of known environments: energy -strength * sum_i s(dH_i) is added.

    dH_i is the differential entropy of atom i with respect to the frames of the reference, in smooth rows made for
    forces (see `SmoothFrame` in quests_md/environments/smooth_rows.py): its numbers are not those of a `Monitor`, whose
    rows jump where neighbours change places. s = -log(sum of kernels + exp(-max_dh)) is dH far below `max_dh` and never
    exceeds it: atoms far outside, as in a structure that has exploded, are not pushed further. Energy, forces and
    stress belong together exactly; what is pushed is nothing but what the reference knows, by element.

    A `Monitor` watches the biased run as any other: it logs the energy without the bias, and saves frames with energy
    and forces without it.

    Parameters
    ----------
    calc
        The calculator, asked once for each geometry.
    reference
        The frames that count as known: a `Reference` or the name of its file, or Atoms, one or several. The reference
        must hold all atoms of its frames, so neither a thinned one nor one of chosen centers; give frames then.
    share
        What part of the forces the bias is to have: mean length of its force on an atom over that of the forces of the
        calculator, both averaged over the warm-up. The idea is that of hyperactive learning.
    warmup
        Geometries, at least one, over which the strength is set; meanwhile it grows from zero. A strength that changes
        conserves no energy, so it is fixed afterwards.
    strength
        eV per nat, instead of `share` and `warmup`: fixed from the beginning, as when a run is taken up again.
    max_dh
        Bound of s in nats; None: 4 above the dH that one known environment in a hundred exceeds, those of its own
        frame left out.

    Attributes
    ----------
    strength : float
        eV per nat, as it is now.
    is_fixed : bool
        Whether the strength will stay: the warm-up is over.
    max_dh : float
        Bound of s, nats.

    Raises
    ------
    TypeError, ValueError
        If an argument is not usable, or the reference does not hold whole frames.
    UnsuitableFrameError
        From a calculation, if an atom is of an element that the reference lacks.
    FrameError
        If the first geometry cannot be described. Later ones that cannot, have exploded and are not pushed.

    Notes
    -----
    `results` hold ``energy``, ``forces`` and, when it is asked for, ``stress``, with the bias; and ``unbiased_energy``,
    ``unbiased_forces``, ``unbiased_stress`` of the calculator alone, and ``bias_energy``, ``bias_forces``,
    ``bias_stress``. What ASE itself writes into files, trajectories of a dynamics say, are the biased ones.

    References
    ----------
    van der Oord et al., npj Comput. Mater. 9, 168 (2023), doi:10.1038/s41524-023-01104-6 (hyperactive learning: a bias
    on the spread of a committee, its strength relative to the forces). Kulichenko et al., Nat. Comput. Sci. 3, 230
    (2023), doi:10.1038/s43588-023-00406-5 (the same idea with a bound). Grubmüller, Phys. Rev. E 52, 2893 (1995),
    doi:10.1103/PhysRevE.52.2893 (flooding of a known state by Gaussians).

    Examples
    --------
    >>> atoms.calc = EntropyBias(calc, "train.safetensors")         # doctest: +SKIP
    >>> dyn.run(20_000)                                             # doctest: +SKIP
    >>> atoms.calc.strength, atoms.calc.results["unbiased_energy"]  # doctest: +SKIP
    """

    def __init__(
        self,
        calc: Any,
        reference: GivenReference | Atoms | Sequence[Atoms],
        *,
        share: float = 0.1,
        warmup: int = 200,
        strength: float | None = None,
        max_dh: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ASE's
        if isinstance(calc, type) or not (hasattr(calc, "get_forces") or hasattr(calc, "get_property")):
            raise TypeError(f"calc: expected an ASE calculator, got {calc!r}")
        if max_dh is not None and not (is_number(max_dh) and np.isfinite(max_dh)):
            raise ValueError(f"max_dh: expected a number of nats, got {max_dh!r}")
        self.wrapped = calc
        self._strength = _Strength(share, warmup, strength)
        self._known = _known(reference, max_dh)
        self._is_described = False
        # calculators that say nothing, such as those of asap3, have what they have methods for
        unsaid = ("energy", "forces", *(("stress",) if hasattr(calc, "get_stress") else ()))
        has = getattr(calc, "implemented_properties", unsaid)
        offered = ("energy", "forces", "free_energy", "stress", *HANDED_ON)
        self.implemented_properties = [name for name in offered if name in has]

    @property
    def strength(self) -> float:
        """EV per nat, as it is now."""
        return self._strength.value

    @property
    def is_fixed(self) -> bool:
        """Whether the strength will stay as it is: the warm-up is over."""
        return self._strength.is_fixed

    @property
    def max_dh(self) -> float:
        """Bound of s, nats."""
        return self._known.bound

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Ask the calculator within, and add the bias."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]  # ASE's
        here: Any = self.atoms if atoms is None else atoms
        asked = self.wrapped if hasattr(self.wrapped, "get_property") else OldCalculatorWrapper(self.wrapped)
        if system_changes:
            self.results = {}
        if "bias_energy" not in self.results:
            self._calculate_all(here, asked)
        results = self.results
        for name in properties:
            if name in results:
                continue
            value = asked.get_property(name, here)
            if name == "stress":
                results["unbiased_stress"] = np.array(value)
                results["stress"] = results["unbiased_stress"] + results["bias_stress"]
            elif name == "free_energy":
                results[name] = value + results["bias_energy"]
            elif name in HANDED_ON:
                results[name] = value
            else:
                raise PropertyNotImplementedError(f"{name}: not of a biased calculator; ask the one within")

    def set_atoms(self, atoms: Atoms) -> None:
        """Tell the calculator within of its atoms, as ASE does: those of asap3 need to know."""
        if hasattr(self.wrapped, "set_atoms"):
            self.wrapped.set_atoms(atoms)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What the bias is made of, as numbers."""
        return {"strength": self.strength, "is_fixed": self.is_fixed, "max_dh": self.max_dh}

    def export_properties(self) -> Properties:
        """The results that ASE knows."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _calculate_all(self, atoms: Atoms, asked: Any) -> None:
        forces = np.array(asked.get_property("forces", atoms), dtype=np.float64)
        energy = float(asked.get_property("energy", atoms))
        found = self._entropy(atoms)
        push = float((1 - np.exp(found.values - self.max_dh)).mean()) if len(atoms) else 0.0
        self._strength.take(forces, found.gradient, push)
        bias_energy, bias_forces = -self.strength * float(found.values.sum()), self.strength * found.gradient
        self.results = {
            "energy": energy + bias_energy,
            "forces": forces + bias_forces,
            "unbiased_energy": energy,
            "unbiased_forces": forces,
            "bias_energy": bias_energy,
            "bias_forces": bias_forces,
        }
        if atoms.cell.rank == 3:
            strain = -self.strength * found.strain / atoms.get_volume()
            self.results["bias_stress"] = full_3x3_to_voigt_6_stress((strain + strain.T) / 2)

    def _entropy(self, atoms: Atoms) -> BoundedEntropy:
        try:
            found = self._known.entropy(atoms)
        except UnsuitableFrameError:
            raise
        except FrameError:
            if not self._is_described:
                raise
            n = len(atoms)
            return BoundedEntropy(np.full(n, self.max_dh), np.zeros((n, 3)), np.zeros((3, 3)))
        self._is_described = True
        return found


class _Strength:
    """EV per nat: given, or set over a warm-up as a share of the forces."""

    def __init__(self, share: float, warmup: int, given: float | None) -> None:
        self._share = check_positive("share", share, "share of the forces, 0.1 say")
        self._warmup = check_integer("warmup", warmup, 1)
        self.is_fixed = given is not None
        self.value = 0.0 if given is None else check_not_negative("strength", given, "strength in eV per nat")
        self._forces = self._gradients = 0.0  # sums of mean lengths
        self._n_seen = 0

    def take(self, forces: NDArray[np.float64], gradient: NDArray[np.float64], push: float) -> None:
        """See the forces of a geometry and the gradient of the sum of s; the bound leaves `push` of it, 0 to 1."""
        if self.is_fixed:
            return
        self._n_seen += 1
        if push > LEAST_PUSH and np.isfinite(forces).all():
            self._forces += float(np.linalg.norm(forces, axis=1).mean())
            self._gradients += float(np.linalg.norm(gradient, axis=1).mean())
        if self._gradients > 0:
            ramp = min(1.0, self._n_seen / self._warmup)
            self.value = ramp * self._share * self._forces / self._gradients
        if self._n_seen < self._warmup:
            return
        self.is_fixed = True
        if self.value == 0.0:
            warnings.warn(
                "EntropyBias: there is no bias, since the warm-up was outside of what the reference knows, or without "
                "forces; start from a known structure, or give strength",
                stacklevel=4,
            )


def _known(given: Any, bound: float | None) -> KnownSmooth:
    """The smooth rows of a reference or of frames."""
    frames = [given] if isinstance(given, Atoms) else given
    if isinstance(frames, Sequence) and not isinstance(frames, str) and all(isinstance(one, Atoms) for one in frames):
        if not any(len(one) for one in frames):
            raise ValueError("reference: expected frames with atoms, got none")
        elements = np.unique(np.concatenate([one.numbers for one in frames])).tolist()
        return KnownSmooth(elements, len(frames), frames.__getitem__, bound)
    reference = opened_reference(given)
    if isinstance(reference.descriptor, TimeAveraged):
        raise ValueError("reference: expected one of single frames, got one of time averages, which no geometry is")
    return KnownSmooth(np.unique(reference.numbers).tolist(), reference.n_frames, _whole_frames(reference), bound)


def _whole_frames(reference: Reference) -> Callable[[int], Atoms]:
    def frame(i: int) -> Atoms:
        atoms = reference.frame(i)
        expected = int(reference.arrays.frame_natoms[i])
        if len(atoms) != expected:
            raise ValueError(
                f"reference: expected all atoms of its frames, got {len(atoms)} of {expected} of frame {i}, since it "
                "is thinned or of chosen centers; give the frames themselves: EntropyBias(calc, frames)"
            )
        return atoms

    return frame
