"""Files from strangers: loaded and of use, or refused by name; nothing is run, nothing hangs or fills memory."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import math
import pickle
import tracemalloc
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from systems import NULL_LINE, alloys

import quests_md.io.xyz
from quests_md import Calibration, Descriptor, Monitor, Reference, calibrate, score_trajectory
from quests_md.calibration.statistics import STATISTICS
from quests_md.errors import FileFormatError, MismatchError, QuestsMDError
from quests_md.io.frames import count_frames, frame_time_ps, iter_frames
from quests_md.reference.contents import ARRAYS

DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}

#: What no field expects, for any field of a JSON text.
ODD = [None, True, 0, -1, 2, 0.5, 119, 2**31, 2**62, 2**63, 10**400]
ODD += [1e-320, 1e300, -1e300, math.nan, math.inf, -math.inf]
ODD += ["", "1", "nan", "Al", "X", "\ud800", "\udc80", "a" * 5000]
ODD += [[], [[]], {}, ["Al"], {"a": 1}, [None], [[1, 2], [3]]]


def timed_alloys(n, seed=0):
    frames = alloys(n, seed)
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.1 * i
    return frames


FRAME = timed_alloys(3, seed=5)[2]


def built(**options):
    options = {"bandwidth": 0.1, "groups": "frame", "descriptor": Descriptor(k=3, cutoff=3.0)} | options
    return Reference.from_frames(timed_alloys(6), **options).with_held_out_scores()


@pytest.fixture(scope="module")
def reference():
    return built()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("untrusted")


def quietly(call, *args, **options):
    """Call without output and without warnings of numbers that overflow."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def assert_same_arrays(a, b):
    a, b = a.arrays.present(), b.arrays.present()
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.tobytes() == b[name].tobytes()


def mapped(path):
    return Reference.load(path, mmap=True)


def frames_of(path):
    return list(iter_frames(path))


def peak_of(call):
    """Most bytes that a call takes at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path, read):
    """The message by which a file is refused: it names the file and is not as long as the file."""
    with pytest.raises(FileFormatError) as info:
        read(path)
    message = str(info.value)
    assert path.name in message
    assert len(message) < 2000
    return message


def unless_refused(path, read):
    """What a file holds; None if it is refused by a message that names it."""
    try:
        return read(path)
    except (FileFormatError, MismatchError) as exc:
        message = str(exc)
    assert path.name in message
    return None


# safetensors, taken apart and put together without the library


def parts_of(blob):
    """The quests_md header, and of each tensor type, shape and bytes."""
    length = int.from_bytes(blob[:8], "little")
    entries = json.loads(blob[8 : 8 + length])
    text = entries.pop("__metadata__")["quests_md"]
    body = blob[8 + length :]
    return json.loads(text), {
        name: [entry["dtype"], entry["shape"], bytearray(body[slice(*entry["data_offsets"])])]
        for name, entry in entries.items()
    }


def blob_of(text, tensors, rows=lambda entry: entry, pad=8):
    """A file; `rows` changes what the safetensors header says of the rows."""
    entries, body = {"__metadata__": {"quests_md": text}}, b""
    for name, (dtype, shape, data) in sorted(tensors.items(), key=lambda item: -len(item[1][0])):
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    header = json.dumps(entries | {"rows": rows(entries["rows"])}).encode()
    header += b" " * (-len(header) % pad)
    return len(header).to_bytes(8, "little") + header + body


def array_of(tensors, name):
    dtype, shape, data = tensors[name]
    return np.frombuffer(data, np.uint8 if dtype == "BOOL" else DTYPES[dtype]).reshape(shape).copy()


def put(tensors, name, array):
    dtype = tensors[name][0]
    array = np.asarray(array, np.uint8 if dtype == "BOOL" else DTYPES[dtype])
    tensors[name] = [dtype, list(array.shape), bytearray(array.tobytes())]


@pytest.fixture(scope="module")
def whole(folder, reference):
    reference.save(folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def changed(name, place, value):
    def change(header, tensors):
        array = array_of(tensors, name)
        with np.errstate(over="ignore"):
            array[place] = value
        put(tensors, name, array)

    return change


def left_out(*names):
    return lambda header, tensors: [header.pop(name, tensors.pop(name, None)) for name in names]


def left_out_of_checksums(name):
    return lambda header, tensors: header["checksums"].pop(name)


def reshaped(name, change):
    def reshape(header, tensors):
        array = change(array_of(tensors, name))
        types = {np.dtype(dtype): key for key, dtype in DTYPES.items()} | {np.dtype(np.uint8): tensors[name][0]}
        tensors[name] = [types[array.dtype], list(array.shape), bytearray(array.tobytes())]

    return reshape


def cut_off(name):
    return reshaped(name, lambda array: array[:-1])


def setting(**values):
    return lambda header, tensors: header["settings"].update(values)


def described_by(**values):
    """Settings of another descriptor, with its fingerprint."""

    def change(header, tensors):
        names = ("k", "cutoff", "elements", "centers", "neighbors", "average", "chemistry")
        header["settings"].update(values)
        told = {name: header["settings"][name] for name in names if name in header["settings"]}
        header["settings"]["descriptor"] = Descriptor(**told).fingerprint

    return change


def without_rows(header, tensors):
    """No atoms, frames, pairs or scores: next to nothing that a reader has to hold."""
    for name, (dtype, shape, _) in tensors.items():
        tensors[name] = [dtype, [0, *shape[1:]], b""]


def both(*changes):
    def change(header, tensors):
        for one in changes:
            one(header, tensors)

    return change


#: Too many elements for 1024 neighbours of each.
MANY = chemical_symbols[1:31]

BAD_REFERENCES = {
    "NaN in a row": ("rows: expected finite", changed("rows", (5, 2), math.nan)),
    "NaN in an averaged row": ("averaged: expected finite", changed("averaged", (5, 2), math.nan)),
    "averaged rows too wide": (
        "averaged: expected 5 columns, as the rows have, got 6",
        reshaped("averaged", lambda a: np.column_stack((a, a[:, 0]))),
    ),
    "averaged rows in float64": ("averaged: expected F32", reshaped("averaged", lambda a: a.astype(np.float64))),
    "averaged rows in a line": ("averaged: expected F32 of shape (n, m)", reshaped("averaged", lambda a: a[:, 0])),
    "an averaged row too few": ("averaged: expected 36 entries for the atoms", cut_off("averaged")),
    "rows that are averaged themselves": ("averaged: expected none by its descriptor", described_by(average=4)),
    "NaN position": ("positions: expected finite", changed("positions", (5, 2), math.nan)),
    "inf in a periodic cell": ("cells: expected finite", changed("cells", (1, 2, 0), math.inf)),
    "element 255": ("numbers: expected atomic numbers, got 255", changed("numbers", -1, 255)),
    "element 119 in a pair": ("pair_elements: expected atomic numbers", changed("pair_elements", (-1, 1), 119)),
    "pair the wrong way round": ("pair_elements: expected the lower", changed("pair_elements", (0, 0), 28)),
    "pair twice": ("pair_elements: expected each pair once", changed("pair_elements", 1, [13, 13])),
    "pair distance NaN": ("pair_smallest: expected positive", changed("pair_smallest", 0, math.nan)),
    "pair distance of nothing": ("pair_smallest: expected positive", changed("pair_smallest", 0, 0.0)),
    "pair distance not counted": ("pair_smallest: expected the smallest", changed("pair_smallest", 0, 0.5)),
    "negative count": ("pair_histogram: expected counts", changed("pair_histogram", (0, 0), -1)),
    "no counts": ("pair_histogram: expected counts", changed("pair_histogram", 0, 0)),
    "counts that overflow": ("pair_histogram: expected counts", changed("pair_histogram", (0, slice(0, 4)), 2**62)),
    "frame outside": ("atom_frame: expected numbers below 6", changed("atom_frame", 3, 6)),
    "frame of -1": ("atom_frame: expected numbers below 6", changed("atom_frame", 3, -1)),
    "atom outside": ("atom_index: expected atoms of their frame", changed("atom_index", 3, 2**62)),
    "atom twice": ("atom_index: expected each atom once", changed("atom_index", 1, 1)),
    "frame of negative size": ("frame_natoms: expected positive", changed("frame_natoms", 2, -4)),
    "volume inf": ("frame_volume: expected volumes", changed("frame_volume", 2, math.inf)),
    "volume negative": ("frame_volume: expected volumes", changed("frame_volume", 2, -1.0)),
    "group too high": ("frame_group: expected numbers below 6", changed("frame_group", 2, 2**63 - 1)),
    "frame number negative": ("frame_index: expected numbers from 0", changed("frame_index", 2, -1)),
    "truth of 2": ("pbc: expected bytes of 0 or 1", changed("pbc", (1, 1), 2)),
    "score NaN": ("score: expected numbers or inf", changed("score", 2, math.nan)),
    "score twice": ("score_row: expected each row once", changed("score_row", 2, 1)),
    "part of a group scored": ("score_row: expected rows of whole", both(cut_off("score"), cut_off("score_row"))),
    "file outside": ("frame_source: expected numbers below 1", changed("frame_source", 2, 1)),
    "scored row outside": ("score_row: expected numbers below 36", changed("score_row", -1, 36)),
    "scores without their rows": ("only one of score and score_row", left_out("score_row")),
    "rows of other scores": ("only one of score and score_row", left_out("score")),
    "numbers in another order": ("numbers: expected rows sorted", reshaped("numbers", lambda a: a[::-1])),
    "a row too few": ("rows: expected 36 entries for the atoms", cut_off("rows")),
    "rows in a line": ("rows: expected F64 of shape (n, m)", reshaped("rows", lambda a: a[:, 0])),
    "rows in float32": ("rows: expected F64", reshaped("rows", lambda a: a.astype(np.float32))),
    "numbers of eight bytes": ("numbers: expected U8", reshaped("numbers", lambda a: a.astype(np.int64))),
    "flat positions": ("positions: expected F32 of shape (n, 3)", reshaped("positions", lambda a: a[:, :2])),
    "cells of two vectors": ("cells: expected F32 of shape (n, 3, 3)", reshaped("cells", lambda a: a[:, :2])),
    "one periodic direction": ("pbc: expected BOOL of shape (n, 3)", reshaped("pbc", lambda a: a[:, 0])),
    "half a pair": ("pair_elements: expected U8 of shape (n, 2)", reshaped("pair_elements", lambda a: a[:, 0])),
    "counts of one bin": ("pair_histogram: expected I64 of shape (n, m)", reshaped("pair_histogram", lambda a: a[0])),
    "a frame too few": ("entries for the frames", cut_off("frame_natoms")),
    "a score too few": ("entries for the scores", cut_off("score")),
    "volumes in a column": ("frame_volume: expected F64 of shape (n)", reshaped("frame_volume", lambda a: a[:, None])),
    "no columns": ("rows: expected at least one column", reshaped("rows", lambda a: a[:, :0])),
    "scalar numbers": ("numbers: expected U8 of shape (n)", lambda h, t: t.update(numbers=["U8", [], b"\x00"])),
    "a type that numpy lacks": (
        "rows: expected F64 of shape (n, m), got BF16",
        lambda h, t: t.update(rows=["BF16", [len(t["rows"][2]) // 2, 1], t["rows"][2]]),
    ),
    "rows for other settings": ("rows: expected 7 columns", described_by(k=4)),
    "pairs for other settings": ("pair_histogram: expected 401 columns", described_by(cutoff=4.0)),
    "other centers": ("numbers: expected atoms of ('Al',)", described_by(centers=["Al"])),
    "a billion neighbours": ("settings: k: expected a positive", both(without_rows, setting(k=10**9))),
    "1025 neighbours": ("settings: k: expected a positive", both(without_rows, setting(k=1025))),
    "neighbours of 30 elements": ("settings: k: expected at most", both(without_rows, setting(k=1024, elements=MANY))),
    "k of a text": ("settings: k:", setting(k="3")),
    "k of a truth": ("settings: k:", setting(k=True)),
    "cutoff of 401 digits": ("settings:", setting(cutoff=10**400)),
    "cutoff NaN": ("settings: cutoff", setting(cutoff=math.nan)),
    "elements that are none": ("settings: elements", setting(elements=["Al", "Xy"])),
    "elements of numbers": ("settings: elements", setting(elements=7)),
    "average of a number with a point": ("settings: average: expected a positive", setting(average=12.0)),
    "chemistry of a number": ("settings: chemistry: expected True or False", setting(chemistry=1)),
    "average over a billion": ("settings: average: expected a positive", setting(average=10**9)),
    "cutoff left out": ("cutoff: expected", lambda h, t: (h["settings"].pop("cutoff"), described_by()(h, t))),
    "bandwidth of 401 digits": ("header", setting(bandwidth=10**400)),
    "bandwidth below 0": ("bandwidth", setting(bandwidth=-1)),
    "no bandwidth": ("header cannot be read", lambda h, t: h["settings"].pop("bandwidth")),
    "match of a text": ("match: expected", setting(match="some")),
    "no settings": ("the header lacks settings", left_out("settings")),
    "no schema": ("header cannot be read", left_out("schema")),
    "bandwidth of a text": ("bandwidth", setting(bandwidth="0.1")),
    "bandwidth of a truth": ("bandwidth", setting(bandwidth=True)),
    "bandwidth whose square is inf": ("bandwidth: expected a positive finite number", setting(bandwidth=1e200)),
    "bandwidth NaN": ("bandwidth", setting(bandwidth=math.nan)),
    "descriptor of no text": ("descriptor: expected a text", setting(descriptor=5)),
    "a newer schema": ("schema 2, this version of quests_md reads up to 1; update", lambda h, t: h.update(schema=2)),
    "schema NaN": ("schema: expected a positive integer", lambda h, t: h.update(schema=math.nan)),
    "no checksum of averaged rows": ("checksum of averaged: expected a text", left_out_of_checksums("averaged")),
    "schema 0": ("schema: expected a positive integer", lambda h, t: h.update(schema=0)),
    "schema of a truth": ("schema: expected a positive integer", lambda h, t: h.update(schema=True)),
    "provenance of a list": ("provenance: expected an object", lambda h, t: h.update(provenance=[1])),
    "left out of a list": ("left_out: expected an object", lambda h, t: h["provenance"].update(left_out=[1])),
    "left out of texts": ("left_out: expected an integer", lambda h, t: h["provenance"].update(left_out={"a": "b"})),
    "versions of a list": ("versions: expected an object", lambda h, t: h["provenance"].update(versions=[])),
    "ancestors of a number": ("ancestors: expected a list", lambda h, t: h["provenance"].update(ancestors=3)),
    "parents of lists": ("parents: expected a text", lambda h, t: h["provenance"].update(parents=[[1]])),
    "sources of numbers": ("sources: expected a text", lambda h, t: h.update(sources=[7])),
    "a long lie": ("match: expected", setting(match="a" * 10**6)),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_a_reference_with_nonsense_is_refused(folder, whole, name):
    expected, change = BAD_REFERENCES[name]
    header, tensors = parts_of(whole)
    change(header, tensors)
    path = folder / "bad.safetensors"
    path.write_bytes(blob_of(json.dumps(header), tensors))
    messages = []
    limit = 2**25 + 8 * len(path.read_bytes())
    for read in (Reference.load, mapped):
        assert peak_of(lambda read=read: messages.append(refused(path, read))) < limit
    assert expected in messages[0]
    assert messages[0] == messages[1]


def test_the_file_that_is_changed_above_is_good(folder, whole, reference):
    path = folder / "good.safetensors"
    for pad in (8, 1):  # arrays that are not aligned are no error
        path.write_bytes(blob_of(json.dumps(parts_of(whole)[0]), parts_of(whole)[1], pad=pad))
        Reference.verify(path)
        for mmap in (False, True):
            loaded = Reference.load(path, mmap=mmap)
            assert loaded.rows.flags.aligned
            assert loaded.fingerprint == reference.fingerprint
            np.testing.assert_array_equal(loaded.delta_entropy(FRAME), reference.delta_entropy(FRAME))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", "[]", "1", "null", '"a"', "", "{"])
def test_a_header_that_is_none_is_refused(folder, whole, text):
    path = folder / "header.safetensors"
    path.write_bytes(blob_of(text, parts_of(whole)[1]))
    for read in (Reference.load, Reference.verify):
        assert "header cannot be read" in refused(path, read)


def test_lengths_and_entries_that_lie_are_refused(folder, whole):
    header, tensors = parts_of(whole)
    lengths = [0, 1, 2**31, 2**63 - 1, 2**64 - 1]
    blobs = [length.to_bytes(8, "little") + whole[8:] for length in lengths]
    lies = [{"shape": shape} for shape in ([2**40, 7], [2**62, 2**62], [-1, 7], [math.nan])]
    lies += [{"data_offsets": offsets} for offsets in ([0, 2**62], [-8, 0], [8, 0])]
    for lie in [*lies, {"dtype": "F4096"}, {"dtype": None}]:
        blobs.append(blob_of(json.dumps(header), tensors, rows=lambda rows, lie=lie: rows | lie))
    path = folder / "lie.safetensors"
    for blob in blobs:
        path.write_bytes(blob)
        for read in (Reference.load, Reference.verify, mapped):
            assert peak_of(lambda read=read: refused(path, read)) < 2**24


def test_an_entry_of_a_form_that_only_safetensors_takes(folder, whole):
    header, tensors = parts_of(whole)
    path = folder / "list.safetensors"
    path.write_bytes(blob_of(json.dumps(header), tensors, rows=lambda rows: list(rows.values())))
    assert "rows: expected an object" in refused(path, mapped)


class Own:
    """A descriptor of one's own: distances to three points."""

    fingerprint = "own"

    def __call__(self, atoms):
        return np.linalg.norm(atoms.positions[:, None] - np.eye(3), axis=2)


@pytest.mark.parametrize(
    "make",
    [
        built,
        lambda: built(match="any"),
        lambda: built(groups=[0, 1, 0, 1, 2, 2]),
        lambda: built(descriptor=Descriptor(k=2, cutoff=3.0, elements=("Al", "Ni", "Fe"))),
        lambda: built(descriptor=Descriptor(k=2, cutoff=3.0, centers=("Al",))),
        lambda: built(descriptor=Descriptor(k=2, cutoff=3.0, centers=("Al",), neighbors=("Al",))),
        lambda: built(descriptor=Own()),
        lambda: built().extend(timed_alloys(3, seed=2)),
        lambda: Reference.merge([built(match="any"), built(match="any"), built(match="any")]),
        lambda: built().sketch(10, 0),
        lambda: built(match="any").sketch(3, 0),
        lambda: built().with_bandwidth(0.2),
        lambda: Reference.merge([built(), Reference.from_frames([], bandwidth=0.1, descriptor=built().descriptor)]),
        lambda: Reference.from_frames([], bandwidth=0.1, descriptor=Own()),
        lambda: Reference.from_frames(FRAME[[0, 1]] * (1, 1, 1), bandwidth=0.1),
    ],
)
def test_whatever_can_be_built_can_be_loaded(folder, make):
    reference = quietly(make)
    path = folder / "any.safetensors"
    reference.save(path)
    Reference.verify(path)
    for mmap in (False, True):
        loaded = Reference.load(path, mmap=mmap, descriptor=reference.descriptor)
        assert_same_arrays(loaded, reference)


def test_names_of_files_that_are_no_text_stay(folder, whole):
    header, tensors = parts_of(whole)
    header["sources"] = ["\udc80\ud800.xyz"]
    path = folder / "names.safetensors"
    path.write_bytes(blob_of(json.dumps(header), tensors))
    Reference.load(path).save(path)
    assert Reference.load(path).sources == ("\udc80\ud800.xyz",)


# calibrations


@pytest.fixture(scope="module")
def levels(folder, reference):
    calibrate(reference, per="run", checks=100, statistics=list(STATISTICS)).save(folder / "levels.json")
    return json.loads((folder / "levels.json").read_text())


BAD_CALIBRATIONS = [
    ("frame_atoms", {"frame_atoms": 10**12}),
    ("frame_atoms", {"frame_atoms": 0}),
    ("frame_atoms", {"frame_atoms": 4.0}),
    ("n_groups", {"n_groups": -1}),
    ("checks", {"checks": 0}),
    ("checks", {"checks": 10**400}),
    ("block_ps", {"block_ps": 0}),
    ("block_ps", {"block_ps": 1e-320}),
    ("block_ps", {"block_ps": "1.0"}),
    ("spacing_ps", {"spacing_ps": 1e308}),
    ("spacing_ps", {"spacing_ps": True}),
    ("false_alarms", {"false_alarms": math.nan}),
    ("fingerprint", {"fingerprint": None}),
    ("how", {"how": {"a": 1}}),
    ("per", {"per": []}),
    ("statistics", {"statistics": {"dh_max": 1}}),
    ("unhashable", {"statistics": [[1]]}),
    ("28", {"composition": {"28": 0}}),
    ("28", {"composition": {"28": 10**30}}),
    ("atomic number", {"composition": {" 28": 4}}),
    ("atomic number", {"composition": {"028": 4}}),
    ("28", {"atom_levels": {"28": "1.0"}}),
    ("28", {"atom_levels": {"28": 1e308}}),
    ("atomic number", {"atom_levels": {"119": 1.0}}),
    ("scores", {"nulls": [NULL_LINE | {"scores": [1.0, 10**400]}]}),
    ("scores", {"nulls": [NULL_LINE | {"scores": [1.0, 1e308]}]}),
    ("scores", {"nulls": [NULL_LINE | {"scores": [1.0, True]}]}),
    ("scores", {"nulls": [NULL_LINE | {"scores": ["1.0", 2.0]}]}),
    ("scores", {"nulls": [NULL_LINE | {"statistic": "n_tail", "scores": [-1.0, 2.0]}]}),
    ("sizes", {"nulls": [NULL_LINE | {"sizes": [4, 4.5]}]}),
    ("sizes", {"nulls": [NULL_LINE | {"sizes": [4, 2**63]}]}),
    ("sizes", {"nulls": [NULL_LINE | {"sizes": [4, 4, 4]}]}),
    ("chemical element", {"nulls": [NULL_LINE | {"element": "X"}]}),
    ("largest dh_max", {"nulls": [NULL_LINE | {"side": "below"}]}),
    ("some twice", {"nulls": [NULL_LINE, NULL_LINE | {"values": "full"}]}),
    ("calibration", {"nulls": ["dh_max"]}),
    ("calibration", {"type": ["a" * 10**6]}),
]


@pytest.mark.parametrize(("word", "change"), BAD_CALIBRATIONS)
def test_a_calibration_with_nonsense_is_refused(folder, levels, word, change):
    path = folder / "bad.json"
    path.write_text(json.dumps(levels | change))
    assert word in refused(path, Calibration.load)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"type": ' + "9" * 5000 + "}", "NaN", '{"type": {"a": 1}}', "\ufeff{}", "\0", "[{}]"]
)
def test_a_text_that_is_no_calibration_is_refused(folder, content):
    path = folder / "text.json"
    path.write_text(content, encoding="utf-8")
    refused(path, Calibration.load)


# frames


def compressed(name):
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[Path(name).suffix]


@pytest.mark.parametrize("name", ["a.xyz.gz", "a.xyz.bz2", "a.lammpstrj.gz"])
@pytest.mark.parametrize("start", [b"", b"2\n", b"2\n\n", b"ITEM: TIMESTEP\n"])
def test_a_line_without_an_end_is_not_unpacked(folder, name, start):
    path = folder / name
    with compressed(name)(path, "wb", 1) as out:
        out.write(start)
        for _ in range(40):
            out.write(b"a" * 2**20)
    assert path.stat().st_size < 2**20
    assert peak_of(lambda: refused(path, frames_of)) < 2**26


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b.xyz.gz", "b.xyz.xz", "b.lammpstrj.gz"])
def test_a_frame_without_an_end_is_not_unpacked(folder, name, monkeypatch):
    monkeypatch.setattr(quests_md.io.xyz, "LARGEST_FRAME", 2**22)
    path = folder / name
    with compressed(name)(path, "wb") as out:
        if "xyz" in name:
            out.write(b"1000000000\n\n")
        else:
            out.write(b"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1000000000\nITEM: BOX BOUNDS pp pp pp\n")
            out.write(b"0 1\n" * 3 + b"ITEM: ATOMS element x y z\n")
        for _ in range(10):
            out.write(b"Cu 0 0 0\n" * 100_000)
    message = []
    assert peak_of(lambda: message.append(refused(path, frames_of))) < 2**25
    assert "decompress the file first" in message[0]


def test_a_large_frame_that_is_not_compressed_or_not_wanted_is_read(folder, monkeypatch):
    monkeypatch.setattr(quests_md.io.xyz, "LARGEST_FRAME", 2**16)
    text = b"".join(b"%d\n\n" % n + b"Cu 0 0 0\n" * n for n in (5000, 3))
    (folder / "c.xyz").write_bytes(text)
    assert [len(frame.atoms) for frame in iter_frames(folder / "c.xyz")] == [5000, 3]
    (folder / "c.xyz.gz").write_bytes(gzip.compress(text))
    assert [len(frame.atoms) for frame in iter_frames(f"{folder / 'c.xyz.gz'}@1:")] == [3]


@pytest.mark.parametrize(
    "text",
    [
        "1\nProperties=species:S:1:pos:R:3:x:R:1000000000\nCu 0 0 0 1\n",
        "0\nProperties=species:S:1:pos:R:1000000000\n",
        "1\nProperties=pos:R:1000000000:x:R:-1000000000\nCu 0 0 0 1\n",
        "1\nx=1 Properties=" + ":".join(f"a{i}:R:1" for i in range(100_001)) + "\nCu 0 0 0\n",
        "1" + "0" * 400 + "\n\nCu 0 0 0\n",
        "9" * 5000 + "\n\nCu 0 0 0\n",
        "-1\n\nCu 0 0 0\n",
        "1\nLattice=3\nCu 0 0 0\n",
        '1\nx="_JSON ' + "[" * 100_000 + '"\nCu 0 0 0\n',
        "1\nProperties=Z:I:1:pos:R:3\n119 0 0 0\n",
        "1\nProperties=Z:I:1:pos:R:3\n-5 0 0 0\n",
        "1\nProperties=Z:I:1:pos:R:3\n99999999999999999999 0 0 0\n",
        "1\nProperties=species:S:1:pos:R:3:species:S:1\nCu 0 0 0 Cu\n",
        "1\nProperties=species:S:1:pos:R:2\nCu 0 0\n",
        "1\nProperties=species:S:1:pos:R:3:momenta:S:3\nCu 0 0 0 a b c\n",
        "1\nProperties=species:S:1:pos:R:3:momenta:R:1\nCu 0 0 0 1\n",
        "1\nProperties=species:S:1:pos:R:3:masses:S:1\nCu 0 0 0 heavy\n",
        "1\n\nCu 0 0 0\nVEC1 1 0 0\nVEC2 0 1 0\nVEC3 0 0 1\n" + "VEC4 0 0 1\n" * 1000,
    ],
)
def test_a_frame_with_nonsense_is_refused(folder, text):
    path = folder / "bad.xyz"
    path.write_text(text)
    assert peak_of(lambda: refused(path, frames_of)) < 2**27


def test_a_comment_with_texts_of_very_different_length_stays_small(folder):
    path = folder / "json.xyz"
    texts = ["a" * 100_000] + [""] * 5000
    path.write_text('1\nx="_JSON ' + json.dumps(texts).replace('"', '\\"') + '"\nCu 0 0 0\n')
    found = []
    assert peak_of(lambda: found.extend(iter_frames(path))) < 2**26
    assert found[0].atoms.info["x"] == texts


@pytest.mark.parametrize(
    "value",
    [
        *([[1, 2], [3, 4]], [[1.5, 2.0]], [True, False], ["a", "b"], {"a": [1, {"b": None}]}, [1, "a", None], []),
        *([[], []], "text", "a _JSON b", 'quoted "text"', [[["x"]]], [1, 2.5, True], [10**30, 1], {"_JSON x": 1}),
    ],
)
def test_a_comment_is_read_as_ase_reads_it(folder, value):
    path = folder / "comment.xyz"
    atoms = FRAME.copy()
    atoms.info["value"] = value
    ase.io.write(path, atoms, format="extxyz")
    expected = ase.io.read(path, format="extxyz").info["value"]
    (found,) = iter_frames(path)
    assert type(found.atoms.info["value"]) is type(expected)
    np.testing.assert_array_equal(found.atoms.info["value"], expected)
    assert np.asarray(found.atoms.info["value"]).dtype == np.asarray(expected).dtype


def test_a_time_of_any_number_of_digits(folder):
    path = folder / "time.xyz"
    path.write_text('1\ntime_ps="_JSON 1' + "0" * 400 + '" ps=2\nCu 0 0 0\n')
    ((atoms),) = (frame.atoms for frame in iter_frames(path))
    assert frame_time_ps(atoms) == 2.0


def test_a_dump_with_very_many_columns_is_refused(folder):
    path = folder / "columns.lammpstrj"
    start = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 1\n0 1\n0 1\n"
    path.write_text(start + "ITEM: ATOMS element x y z" + " a" * 200_000 + "\nCu 0 0 0\n")
    assert "columns" in refused(path, frames_of)


def with_item(blob, item):
    """An ASE trajectory whose first frame is another."""
    blob, text = bytearray(blob), json.dumps(item).encode()
    place = int.from_bytes(blob[40:48], "little")
    blob[place : place + 8] = len(blob).to_bytes(8, "little")
    return bytes(blob + len(text).to_bytes(8, "little") + text)


def item_of(blob):
    at = int.from_bytes(blob[int.from_bytes(blob[40:48], "little") :][:8], "little")
    return json.loads(blob[at + 8 : at + 8 + int.from_bytes(blob[at : at + 8], "little")])


def repeated(n):
    return {"__ndarray__": [[n], "float64", [0.0]]}


@pytest.mark.parametrize(
    "change",
    [
        {"info": {"x": repeated(10**9)}},
        {"info": {"x": {"__ndarray__": [[1], "(1000000000,)f8", [0.0]]}}},
        {"info": {"x": {"__ndarray__": [[10], "U100000000", [""]]}}},
        {"info": {str(i): repeated(100_000) for i in range(5000)}},
        {"constraints": json.dumps([{"name": "FixAtoms", "kwargs": {"indices": repeated(10**9)}}])},
        {"constraints": json.dumps([{"name": "os", "kwargs": {}}])},
        {"constraints": 3},
        {"numbers.": {"ndarray": [[-1], "int64", 0]}},
        {"numbers.": {"ndarray": [[2], "object", 0]}},
        {"numbers": [119, 1]},
        {"positions": [[0, 0, 0]]},
    ],
)
def test_a_trajectory_with_nonsense_is_refused(folder, change):
    path = folder / "bad.traj"
    atoms = FRAME.copy()
    atoms.info["note"] = {"x": np.arange(3), "y": np.array(["a", "bc"])}
    atoms.set_constraint(FixAtoms([0, 1]))
    ase.io.write(path, [atoms, atoms])
    assert [len(frame.atoms) for frame in iter_frames(path)] == [len(FRAME)] * 2
    blob = path.read_bytes()
    item = item_of(blob)
    item = {key: value for key, value in item.items() if key.rstrip(".") not in {name.rstrip(".") for name in change}}
    path.write_bytes(with_item(blob, item | change))
    assert peak_of(lambda: refused(path, frames_of)) < 2**27


@pytest.mark.parametrize("place", [32, 40])
@pytest.mark.parametrize("value", [1, 2**31, 2**62, 2**64 - 1, 2**64 - 8])
def test_lengths_and_places_of_a_trajectory_that_lie(folder, place, value):
    path = folder / "lie.traj"
    ase.io.write(path, [FRAME, FRAME])
    blob = bytearray(path.read_bytes())
    blob[place : place + 8] = value.to_bytes(8, "little")
    path.write_bytes(blob)
    found = unless_refused(path, frames_of) or []
    assert all((frame.atoms.numbers == FRAME.numbers).all() for frame in found)  # fewer, all of them in the file


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("start", [b"", b"PickleTrajectory"])
@pytest.mark.parametrize("name", ["p.traj", "p.trj", "p.pckl", "p.xyz", "p.npy", "p.json", "p.safetensors"])
def test_a_pickle_is_not_run(folder, start, name):
    path, trace = folder / name, folder / "trace"
    path.write_bytes(start + pickle.dumps(Payload(trace)))
    for read in (Reference.load, Calibration.load, frames_of):
        refused(path, read)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()
    trace.unlink()


# any damage


def damaged(tree, rng):
    """A JSON value with one place changed, left out, doubled or wrapped."""
    places = [()]
    for place in places:  # grows
        node = at(tree, place)
        places += (
            [(*place, key) for key in (node if isinstance(node, dict) else range(len(node)))]
            if isinstance(node, dict | list)
            else []
        )
    if len(places) == 1:
        return rng.choice(ODD)
    *way, key = rng.choice(places[1:])
    tree = json.loads(json.dumps(tree))
    node = at(tree, way)
    old = node[key]
    kind = rng.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = [old]
    elif kind == 2 and isinstance(node, list):
        node.append(old)
    else:
        node[key] = rng.choice(ODD)
    return tree


def at(tree, way):
    for key in way:
        tree = tree[key]
    return tree


def damage_tensor(tensors, rng):
    name = rng.choice(sorted(tensors))
    _, shape, data = tensors[name]
    kind = rng.randrange(8)
    if kind < 5 and data:
        array = array_of(tensors, name)
        numbers = [-1, 0, 1, 3, 255, 2**31, 2**62, 2**63 - 1]
        if array.dtype.kind == "f":
            numbers += [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-320]
        else:
            numbers = [n for n in numbers if np.iinfo(array.dtype).min <= n <= np.iinfo(array.dtype).max]
        with np.errstate(over="ignore"):
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice(numbers)
        put(tensors, name, array)
    elif kind == 5 and shape:
        tensors[name][1] = rng.choice([shape[::-1], [*shape, 1], [math.prod(shape)], [0, 2**60], [1, *shape]])
    elif kind == 6:
        tensors[name][0] = rng.choice(["F64", "I64", "F32", "U8", "BOOL", "BF16", "F8_E4M3", "F4", "U64", "?"])
    else:
        count = rng.choice([0, 1])
        for other, (_, per, _) in ARRAYS.items():
            if per == ARRAYS[name][1] and other in tensors and tensors[other][1]:
                first, *rest = tensors[other][1]
                size = len(tensors[other][2]) // max(first, 1)
                tensors[other] = [tensors[other][0], [min(count, first), *rest], tensors[other][2][: count * size]]


def watched(reference, calibration, frame):
    with Monitor(reference, calibration, log=None, on_error="raise") as monitor:
        monitor.preflight(frame.copy())
        monitor.check(frame.copy(), time_ps=0.0)


EXAMPLES = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
@settings(max_examples=150, **EXAMPLES)
def test_a_damaged_reference_is_refused_or_of_use(folder, whole, rng):
    header, tensors = parts_of(whole)
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.5:
            header = damaged(header, rng)
        else:
            damage_tensor(tensors, rng)
    blob = bytearray(blob_of(json.dumps(header), tensors, pad=rng.choice([1, 8])))
    if rng.random() < 0.1:
        blob[rng.randrange(len(blob))] = rng.randrange(256)
    path = folder / "damaged.safetensors"
    path.write_bytes(blob)
    loaded = unless_refused(path, lambda path: Reference.load(path, mmap=rng.random() < 0.5))
    if loaded is None:
        return
    # arrays that stay in the file are checked when they are read
    if unless_refused(path, lambda _: loaded.save(folder / "again.safetensors") or loaded) is None:
        return
    again = Reference.load(folder / "again.safetensors")
    assert_same_arrays(again, loaded)
    for name in ("settings", "provenance", "sources", "fingerprint"):
        assert repr(getattr(again, name)) == repr(getattr(loaded, name))  # NaN is not equal to itself
    with contextlib.suppress(QuestsMDError):
        if "k" not in loaded.settings:  # then its descriptor is not known
            return
        assert not np.isnan(quietly(loaded.delta_entropy, FRAME)).any()
        quietly(loaded.nearest, FRAME)
        quietly(Reference.merge, [loaded, loaded])
        quietly(watched, loaded, None, FRAME)


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, **EXAMPLES)
def test_a_damaged_calibration_is_refused_or_of_use(folder, levels, reference, rng):
    content = levels
    for _ in range(rng.randint(1, 2)):
        content = damaged(content, rng)
    path = folder / "damaged.json"
    path.write_text(json.dumps(content))
    loaded = unless_refused(path, Calibration.load)
    if loaded is None:
        return
    loaded.save(folder / "again.json")
    again = Calibration.load(folder / "again.json")
    again.save(path)
    assert path.read_text() == (folder / "again.json").read_text()
    for mode in ("full", "proven"):
        for level in quietly(loaded.frame_levels, FRAME.numbers, 1000, check_ps=0.1, mode=mode):
            assert not math.isnan(level.value)
            assert 0 <= level.rate <= 1
    quietly(loaded.describe)
    assert loaded.kind in ("conformal", "extrapolated", "none")
    with contextlib.suppress(QuestsMDError):
        quietly(watched, reference, loaded, FRAME)


WORDS = ["nan", "inf", "1e400", "-1", "0", "3", "9" * 400, "X", "Ni", "abc", '"', "{", "=", "1e-300", "1e300", "T", ""]
WORDS += ['Lattice="0 0 0 0 0 0 0 0 0"', 'Lattice="1e-300 0 0 0 1 0 0 0 1"', 'pbc="T F F"', "Properties=pos:R:3"]
WORDS += ["Properties=species:S:1:pos:R:3:momenta:S:1", "Properties=Z:I:1:pos:R:3", "energy=abc", "time_ps=nan"]


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.sampled_from(["xyz", "lammpstrj"]))
@settings(max_examples=150, **EXAMPLES)
def test_damaged_frames_are_refused_or_of_use(folder, reference, rng, kind):
    path = folder / f"damaged.{kind}"
    ase.io.write(path, timed_alloys(2), format="extxyz")
    text = path.read_text()
    if kind == "lammpstrj":
        text = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 6\n0 6\n0 6\n"
        text += "ITEM: ATOMS id element x y z\n1 Ni 0 0 0\n2 Al 1.5 1.5 1.5\n"
    lines = text.split("\n")
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(lines))
        words = lines[i].split(" ")
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        lines[i] = " ".join(words)
    path.write_text("\n".join(lines))
    frames = []

    def read(path):
        frames.extend(frame.atoms for frame in iter_frames(path))
        return len(frames)

    assert unless_refused(path, read) in (None, count_frames(path))
    calibration = quietly(calibrate, reference)
    with contextlib.suppress(QuestsMDError):
        quietly(lambda: list(score_trajectory(frames, reference, calibration)))
    with contextlib.suppress(QuestsMDError):
        quietly(Reference.from_frames, frames, descriptor=reference.descriptor)
