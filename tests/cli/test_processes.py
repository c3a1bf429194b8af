"""Commands as processes of their own: pipes, signals, terminals."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from ase.io import read, write
from processes import ROOT, fresh

from quests_md import read_log

pytestmark = pytest.mark.slow

#: Statistics of plain rows, which frames quieter than those of the reference do not leave.
KNOWN = ("-r", "train.safetensors", "--statistics", "dh_max,tail_cluster,dh_mean")


def start(*arguments, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "quests_md", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


@pytest.fixture
def long(folder, tmp_path):
    """A trajectory that takes some seconds: quiet for 1500 frames, then out of the reference for 5."""
    frames = read(folder / "run.xyz", ":")
    written = [frames[i % 7] for i in range(1500)] + frames[7:]
    path = tmp_path / "long.xyz"
    with path.open("w", encoding="utf-8") as file:
        for step, frame in enumerate(written):
            frame.info["step"] = step
            write(file, frame, format="extxyz")
    return path, len(written)


class Screen(threading.Thread):
    """A pseudo-terminal, and what a process writes to it, taken as it comes until the process ends."""

    def __init__(self, columns):
        super().__init__(daemon=True)
        self.pieces = []
        self.ours, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def start(self):
        """Once the process has the other end."""
        os.close(self.end)
        super().start()

    def run(self):
        try:
            while piece := os.read(self.ours, 65536):
                self.pieces.append(piece)
        except OSError:  # Linux says so when the other side is closed
            pass
        os.close(self.ours)

    def text(self):
        self.join(60)
        return b"".join(self.pieces).decode().replace("\r\n", "\n")


def shown_on_a_terminal(*arguments, cwd, columns=80, code=0, **variables):
    """What a command that ends with an exit code writes where both stdout and stderr are a terminal."""
    screen = Screen(columns)
    process = start(*arguments, cwd=cwd, stdout=screen.end, stderr=screen.end, **variables)
    screen.start()
    text = screen.text()
    assert process.wait(timeout=60) == code
    assert "\t" not in text
    return text


def lines_in_the_end(shown):
    """The lines as they are left: where work takes a while a bar comes and goes, drawn again and again in one line."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    return [line.rpartition("\r")[2] for line in plain.split("\n")]


def test_the_table_of_all_statistics_fits_a_terminal(folder, tmp_path):
    level = ("--statistics", "all", "-o", tmp_path / "all.json")
    shown = shown_on_a_terminal("calibrate", "train.safetensors", *level, cwd=folder)
    lines = lines_in_the_end(shown)
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == []  # a path is not broken
    assert sum(line.startswith("alarm by") for line in lines) > 1
    assert sum("local_max" in line for line in lines if line.startswith("alarm by")) == 1


def test_a_torn_trajectory_is_scored_up_to_the_tear_with_one_line_of_warning(folder):
    process = start("score", "torn.xyz", *KNOWN, cwd=folder)
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 0
    assert out.count("\n") == 1 + 11
    [warning] = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "torn.xyz: frame 11" in warning
    assert "11 frames: " in err


def test_a_reader_that_leaves_is_not_an_error(folder):
    ours, theirs = os.pipe()
    os.close(ours)
    process = start("score", "run.xyz", *KNOWN, cwd=folder, stdout=theirs)
    os.close(theirs)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"rror" not in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_exit_code_130_and_keeps_the_log(folder, long, tmp_path, signum):
    log = tmp_path / "log.jsonl"
    process = start("score", long[0], *KNOWN, "--log", log, cwd=folder)
    lines = [process.stdout.readline() for _ in range(5)]  # the header and four frames at least
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(b"interrupted\n")
    assert b"Traceback" not in err
    assert len(lines) - 1 <= len(read_log(log)) < long[1]


@pytest.mark.parametrize("way", [("-m", "quests_md"), ("quests-md",)])
def test_an_interrupt_while_libraries_are_loaded_is_a_line(tmp_path, way):
    (tmp_path / "quests-md").write_text("from quests_md.cli import main\nmain()\n", encoding="utf-8")
    command = [sys.executable, *way, "reference", "info", "-m"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text(encoding="utf-8"):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"interrupted\n")


def test_a_script_keeps_its_handler_of_interrupts():
    done = fresh("import quests_md, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_is_on_a_terminal_and_the_data_in_the_pipe(folder, long, is_terminal):
    path, n_frames = long
    screen = Screen(80) if is_terminal else None
    process = start("score", path, *KNOWN, cwd=folder, stderr=screen.end if is_terminal else subprocess.PIPE)
    if is_terminal:
        screen.start()
    out, err = process.communicate(timeout=60)
    shown = screen.text() if is_terminal else err.decode()
    assert process.returncode == 0
    assert out.count(b"\n") == 1 + n_frames
    assert b"\x1b" not in out
    assert ("scoring frames" in shown) == ("\x1b" in shown) == is_terminal
    assert shown.replace("\r", "").rpartition("\x1b")[2].count("event 1: novel") == 1  # the bar has gone before


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_terminal_gets_columns_and_folded_lines(folder, terminal):
    shown = shown_on_a_terminal("score", folder / "run.xyz", *KNOWN, cwd=folder, TERM=terminal)
    assert "scoring frames" not in shown  # the lines show how far it is
    lines = shown.splitlines()
    [first] = [i for i, line in enumerate(lines) if line.split()[:2] == ["step", "time_ps"]]
    rows = lines[first : first + 13]
    state = rows[0].index(" state") + 1
    assert [line[state:].split()[0] for line in rows[1:]] == ["in"] * 7 + ["out"] * 5
    assert ["dh_max +" in line for line in rows[1:]] == [False] * 7 + [True] * 5
    # a path may be longer than the terminal: it is not broken
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in lines)


@pytest.mark.parametrize("columns", [80, 100])
def test_events_in_a_terminal_are_a_table_with_the_open_and_latest_described(eventful, tmp_path, columns):
    shown = shown_on_a_terminal("events", eventful, cwd=tmp_path, columns=columns)
    lines = shown.splitlines()
    [first] = [i for i, line in enumerate(lines) if line.split()[:2] == ["id", "kind"]]
    rows = [line.split()[:2] for line in lines[first + 1 : first + 4]]
    assert rows == [["1", "novel"], ["2", "transition"], ["3", "exploded"]]
    assert [f"\nevent {i}: " in shown for i in (1, 2, 3)] == [False, True, True]
    assert all(len(line) <= columns for line in lines)


def test_errors_and_levels_are_folded_in_a_terminal(folder, tmp_path):
    two = tmp_path / "two.jsonl"
    two.write_bytes((folder / "run.jsonl").read_bytes() * 2)
    for code, command in (
        (2, ("events", two)),
        (2, ("events", tmp_path)),
        (2, ("score", "run.xyz", *KNOWN, "--patience", "9" * 20)),
        (0, ("score", "run.xyz", "-r", "train.safetensors")),
    ):
        lines = lines_in_the_end(shown_on_a_terminal(*command, cwd=folder, code=code))
        assert [line for line in lines if len(line) > 80 and len(line.split()) > 1] == []


@pytest.mark.parametrize("command", ["calibrate", "score", "build"])
def test_what_is_written_to_a_full_disk_is_named(folder, tmp_path, command):
    """A file that may not grow is like a disk without room."""
    name = tmp_path / ("new.safetensors" if command == "build" else "new")
    words = {
        "calibrate": ("calibrate", "train.safetensors", "-o", name),
        "score": ("score", "run.xyz", *KNOWN, "--log", name),
        "build": ("reference", "build", "train.xyz", "-o", name),
    }[command]
    limits = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limits += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); from quests_md.cli import main; main()"
    done = fresh("import sys; " + limits, *words, cwd=folder)
    assert done.returncode == 2
    assert f"error: {name}: " in done.stderr
    assert "ile too large" in done.stderr
