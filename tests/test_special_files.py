"""Pipes and devices in the place of files: each is refused at once, and no simulation waits for the other end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from processes import ROOT
from references import rattled_cells

from quests_md import (
    Calibration,
    FileFormatError,
    Monitor,
    Reference,
    calibrate,
    read_log,
    save_frame,
    sentinel,
)
from quests_md.io import iter_frames
from quests_md.records import Event


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.xyz")
    return tmp_path / "pipe.xyz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regular")
    write(folder / "run.xyz", rattled_cells(3))
    Reference.from_frames(rattled_cells(12), groups="frame").save(folder / "train.safetensors")
    return folder


@pytest.mark.parametrize(
    "read",
    [
        Reference.load,
        Reference.verify,
        Calibration.load,
        read_log,
        Reference.from_frames,
        lambda path: list(iter_frames(path)),
        lambda path: list(iter_frames(f"{path}@:2")),
        lambda path: list(iter_frames(f"{path.parent}/*.xyz")),
        lambda path: list(iter_frames("x.xtc", topology=path)),
    ],
)
def test_a_pipe_is_not_read(read, pipe):
    with pytest.raises(FileFormatError, match=r"pipe\.xyz: expected .*regular file"):
        read(pipe)
    with pytest.raises((FileFormatError, FileNotFoundError), match=r"null: expected .*regular file|no file matches"):
        read(type(pipe)("/dev/null"))


@pytest.mark.parametrize(
    "written",
    [
        save_frame,
        sentinel,
        lambda path: Reference.from_frames(rattled_cells(2)).save(path),
        lambda path: calibrate(Reference.from_frames(rattled_cells(12), groups="frame")).save(path),
        lambda path: Monitor(Reference.from_frames(rattled_cells(12), groups="frame"), log=path),
    ],
)
@pytest.mark.filterwarnings("ignore:.*held out")
def test_a_pipe_is_not_written_and_stays(written, pipe):
    with pytest.raises(OSError, match=r"expected .*regular file"):
        written(pipe)
    assert pipe.is_fifo()
    with pytest.raises(OSError, match=r"expected .*regular file"):
        written("/dev/null")
    assert Path("/dev/null").is_char_device()


def test_flagged_frames_and_sentinels_that_become_pipes_do_not_halt_the_run(tmp_path):
    actions = [save_frame(tmp_path / "a.xyz"), sentinel(tmp_path / "b")]
    os.mkfifo(tmp_path / "a.xyz")
    os.mkfifo(tmp_path / "b")
    event = Event(1, "novel", 0, 0, 0, None, None, 1.0, 0, 1, (), (), None, None, None, None, 1, True)
    for action in actions:
        with pytest.raises(OSError, match="expected the name of a regular file, got a pipe"):
            action(event, bulk("Cu"))


def test_flagged_frames_do_not_go_into_other_files_of_quests_md(folder):
    with pytest.raises(FileFormatError, match="expected a file of flagged frames, got a reference"):
        save_frame(folder / "train.safetensors")


#: Runs commands one after the other, as one process can: a line of its number, exit code and last line of stderr each.
RUN_ALL = """
import contextlib, io, json, sys
from quests_md.cli.app import app
for number, arguments in enumerate(json.loads(sys.argv[1])):
    said, code = io.StringIO(), None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            app(arguments)
        except SystemExit as end:
            code = end.code
    print(json.dumps([number, code, said.getvalue().splitlines()[-1]]), flush=True)
"""

COMMANDS = [
    ("score", "{}", "-r", "train.safetensors"),
    ("score", "run.xyz", "-r", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "-c", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--at", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--log", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--save", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--sentinel", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--topology", "{}"),
    ("score", "run.xyz", "-r", "train.safetensors", "--phase", "a={}", "--phase", "b=train.safetensors"),
    ("score", "run.xyz", "-r", "train.safetensors", "--log", "x.jsonl", "--plot", "{}"),
    ("events", "{}"),
    ("reference", "build", "run.xyz", "-o", "{}"),
    ("reference", "build", "{}"),
    ("reference", "info", "{}"),
    ("reference", "info", "{}", "--verify"),
    ("reference", "merge", "{}", "-o", "x.safetensors"),
    ("calibrate", "{}"),
    ("calibrate", "train.safetensors", "-o", "{}", "--force"),
    ("calibrate", "train.safetensors", "--frames", "{}"),
    ("calibrate-errors", "train.safetensors", "{}"),
]


def pipe_for(folder, number):
    arguments = COMMANDS[number]
    end = ".png" if "--plot" in arguments else ".safetensors" if "-o" in arguments else ""
    return folder / f"pipe{number}{end}"


@pytest.fixture(scope="module")
def answers(folder):
    """Exit code and last line of stderr of each command, by its number; one that waits has none, nor the later ones."""
    for number in range(len(COMMANDS)):
        os.mkfifo(pipe_for(folder, number))
    words = [[text.format(pipe_for(folder, number)) for text in words] for number, words in enumerate(COMMANDS)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN_ALL, json.dumps(words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
    return {number: answer for number, *answer in map(json.loads, out.splitlines())}


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[" ".join(words) for words in COMMANDS])
def test_no_command_waits_for_a_pipe(folder, answers, number):
    assert number in answers, f"it waited, if the first without an answer: {min(set(range(99)) - set(answers))}"
    code, said = answers[number]
    assert code == 2
    assert "regular file, got a pipe" in said
    assert pipe_for(folder, number).is_fifo()


def command(folder, *arguments, **options):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "quests_md", *map(str, arguments)]
    return subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_standard_input_is_not_read_and_the_message_says_what_to_do(folder):
    done = command(folder, "score", "-", "-r", "train.safetensors", input="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "-: standard input is not read; write it to a file first" in done.stderr
    done = command(folder, "score", "/dev/stdin", "-r", "train.safetensors", input="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/stdin: expected a regular file, got a pipe; write what comes out of it to a file" in done.stderr
