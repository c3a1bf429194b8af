"""References that are built out of core, and files that are written a part at a time."""

import json
import resource
import signal
import warnings
from itertools import product

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from references import Given, H, carrying, rattled_cells
from safetensors.numpy import save_file

from quests_md import Descriptor, Reference, UnsuitableFrameError
from quests_md.reference.tensors import TYPES, write_tensors


def of_both_ways(tmp_path, frames, **options):
    """The reference of frames built in memory and out of core, and the bytes of their files but for the time of day."""
    out, saved = tmp_path / "out.safetensors", tmp_path / "saved.safetensors"
    with warnings.catch_warnings(action="ignore"):
        built = Reference.from_frames(frames, **options, out=out)
        known = Reference.from_frames(frames, **options)
    known.save(saved)
    created = [json.dumps(one.provenance["created"]).encode()[1:-1] for one in (built, known)]
    assert sorted(path.name for path in tmp_path.iterdir() if "safetensors" in path.name) == [out.name, saved.name]
    return built, known, out.read_bytes().replace(created[0], created[1]), saved.read_bytes()


def alloys(n):
    """Frames of two or three elements of unequal size, some of them equal."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(n):
        atoms = bulk("NiAl", "cesiumchloride", a=2.9) * (2, 1 + i % 2, 2)
        if i % 3 == 0:
            atoms.numbers[i % len(atoms)] = 26
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        frames.append(frames[4].copy() if i % 7 == 6 else atoms)
    return frames


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"match": "any"},
        {"bandwidth": H, "groups": "frame"},
        {"descriptor": Descriptor(average=12)},
        {"descriptor": Descriptor(centers=("Al",))},
        {"descriptor": Descriptor(chemistry=True, k=8), "threads": 2},
    ],
)
def test_the_file_is_the_same_to_the_byte(tmp_path, options):
    built, known, out, saved = of_both_ways(tmp_path, alloys(30), **options)
    assert out == saved
    assert built.fingerprint == known.fingerprint
    frame = alloys(1)[0]
    assert built.delta_entropy(frame).tobytes() == known.delta_entropy(frame).tobytes()
    Reference.verify(tmp_path / "out.safetensors")


def test_frames_that_are_left_out_are_left_out(tmp_path):
    """Isolated atoms, bad frames and explosions, found last."""
    frames = rattled_cells(40)
    frames[3].positions[0] = np.nan
    frames[10] = Atoms("Cu", positions=[[0, 0, 0]])
    frames[20].positions[0] = frames[20].positions[1] + 0.05
    _, known, out, saved = of_both_ways(tmp_path, frames, skip_bad=True, groups="frame")
    assert known.n_frames == 37
    assert out == saved


def test_files_and_descriptors_of_ones_own(tmp_path):
    frames = [
        carrying(np.random.default_rng(i).normal(0, 0.05, (5 + i % 3, 4)), [29, 30, 29, 30, 29, 29, 30][: 5 + i % 3])
        for i in range(20)
    ]
    own, _, out, saved = of_both_ways(tmp_path, frames, descriptor=Given(), bandwidth="auto")
    assert out == saved
    assert own.descriptor is not None
    ase.io.write(tmp_path / "train.xyz", rattled_cells(20))
    *_, out, saved = of_both_ways(tmp_path, tmp_path / "train.xyz")
    assert out == saved


def test_a_build_that_fails_keeps_the_older_file(tmp_path):
    path = tmp_path / "r.safetensors"
    path.write_bytes(b"older")
    frames = [*rattled_cells(3), bulk("NaCl", "rocksalt", a=5.6)]
    with pytest.raises(UnsuitableFrameError):
        Reference.from_frames(frames, descriptor=Descriptor(elements=("Cu",)), out=path)
    nothing = "expected environments to write, got none: 1 frame left out"
    with pytest.raises(ValueError, match=nothing), warnings.catch_warnings(action="ignore"):
        Reference.from_frames([Atoms("Cu", positions=[[0, 0, 0]])], out=path)
    with pytest.raises(FileNotFoundError, match="create the folder"):
        Reference.from_frames(frames[:3], out=tmp_path / "no" / "r.safetensors")
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits of the size of files")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    """By the limit of the size of a file, which writes meet as they meet the end of a disk."""
    known = Reference.from_frames(rattled_cells(40), groups="frame")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(OSError, match="too large") as saving:
            known.save(tmp_path / "r.safetensors")
        with pytest.raises(OSError, match="too large") as building:
            Reference.from_frames(rattled_cells(40), groups="frame", out=tmp_path / "r.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert saving.value.filename == str(tmp_path / "r.safetensors")
    assert str(tmp_path) in str(building.value.filename)
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_written_as_the_library_writes_them(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["plain", 'quotes " and \\ back', "lines\n\r\t\x01\x1f\x7f", "Å ü 漢 \u2028", ""]
    for n, text in product((0, 1, 5000), texts):
        arrays = {
            f"{name}{i}": (rng.normal(size=(n, *shape)) * 100).astype(name)
            for name in TYPES
            for i, shape in enumerate([(), (3,), (2, 2), (0,)])
        }
        arrays["strided"] = rng.normal(size=(n, 6))[:, ::2]
        with (tmp_path / "ours").open("wb") as file:
            write_tensors(file, arrays, {"quests_md": text})
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(whole, tmp_path / "library", metadata={"quests_md": text})
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
