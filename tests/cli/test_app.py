import os

import pytest

from quests_md import Reference, __version__
from quests_md.calibration import STATISTICS


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("demo", "reference", "calibrate", "score", "events", "Exit codes", "[ -e quests-md.event ]")),
        (("demo",), ("--folder",)),
        (("reference",), ("build", "info", "extend", "merge")),
        (
            ("reference", "build"),
            ("--output", "--k", "--cutoff", "--average", "--chemistry", "--bandwidth", "--match", "--groups", "Å"),
        ),
        (("reference", "info"), ("--verify",)),
        (("reference", "extend"), ("--output", "--groups")),
        (("reference", "merge"), ("--output",)),
        (("calibrate",), ("--false-alarms", "--per", "--atoms")),
        (("calibrate-errors",), ("--tolerance", "--share", "--true", "--model", "--output")),
        (("score",), ("--reference", "--log", "--plot", "--save", "--fail-on-event", "nats", "--sentinel")),
        (("score",), ("--phase", "NAME=FILE", "--types", "--max-temperature")),
        (
            ("lammps",),
            ("INPUT", "--every", "--types", "--length-A", "--stop", "--resume", "--values-in-lammps", "-var"),
        ),
        (("events",), ("--json", "--plot", "--fail-on-event", "--growth", "--kind", "--details")),
    ],
)
def test_help_names_commands_and_options(quests_md, monkeypatch, command, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = quests_md(*command, "--help")
    assert (code, err) == (0, "")
    for word in words:
        assert word in out
    assert max(map(len, out.splitlines())) <= 80
    assert "..." not in out.partition("Commands:")[2]  # no command's summary is cut
    assert quests_md(*command, "-h") == (0, out, "")


@pytest.mark.parametrize("command", ["score", "calibrate"])
def test_help_breaks_no_name_of_a_statistic(quests_md, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    out = quests_md(command, "--help")[1]
    assert all(name in out for name in STATISTICS)
    assert "dh_max, dh_q99, dh_mean" in " ".join(out.split())


def test_the_version(quests_md):
    assert quests_md("--version") == (0, f"quests_md {__version__}\n", "")


# misuse: one line that says what and where, exit code 2, nothing written

KNOWN = ("-r", "train.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # what is not there
        (("score", "nothing*.xyz", *KNOWN), "nothing*.xyz: no file matches this pattern"),
        (("score", "missing.xyz", *KNOWN), "missing.xyz: no such file"),
        (("score", ".", *KNOWN), "expected a file, got a folder"),
        (("score", "run.xyz@90:", *KNOWN), "'@90:' selects none of the 12 frames"),
        (("score", "run.xyz", "-r", "missing.safetensors"), "missing.safetensors: expected a reference file"),
        (("score", "run.xyz", *KNOWN, "-c", "missing.json"), "missing.json: expected a calibration file"),
        (("events", "missing.jsonl"), "missing.jsonl: No such file"),
        # one kind of file for another
        (("score", "train.safetensors", "-r", "run.xyz"), "train.safetensors: expected frames; a reference is given"),
        (("score", "run.jsonl", *KNOWN), "run.jsonl: expected frames, got the log of a run"),
        (("score", "train.json", *KNOWN), "train.json: expected frames, got a calibration of quests_md (calib"),
        (
            ("score", "run.xyz", *KNOWN, "-c", "train.safetensors"),
            "train.safetensors: expected a calibration of quests_md, got a ref",
        ),
        (("reference", "build", "train.safetensors"), "references are merged by `quests-md reference merge`"),
        (("reference", "info", "run.xyz"), "run.xyz: expected a reference file"),
        (("events", "train.json"), "train.json: expected the log of a run, got a calibration"),
        (("calibrate", "run.jsonl"), "run.jsonl: expected a reference of quests_md, got the log of a run"),
        (("score", "run.xyz", "-r", "train.json"), "train.json: expected a reference of quests_md, got a cali"),
        (("score", "run.xyz", *KNOWN, "--at", "train.json"), "train.json: expected the log of a run, got a cal"),
        (("score", "run.xyz", *KNOWN, "--phase", "a=train.json", "--phase", "b=run.jsonl"), "train.json: expected a r"),
        (("reference", "merge", "train.json", "-o", "x.safetensors"), "train.json: expected a reference of q"),
        (("score", "-", *KNOWN), "-: standard input is not read; write it to a file first"),
        (("reference", "build", "train.xyz", "-o", "train.safetensors"), "train.safetensors is there already, a ref"),
        (("reference", "extend", "train.safetensors", "run.xyz", "-o", "train.safetensors"), "give --force to rep"),
        (("reference", "merge", "train.safetensors", "-o", "train.safetensors"), "give --force to replace it, or"),
        (("calibrate", "train.safetensors", "-o", "train.json"), "train.json is there already, a calibration of"),
        (("calibrate-errors", "train.safetensors", "run.xyz", "-o", "run.xyz"), "run.xyz is read by this command too"),
        # empty and torn
        (("score", "text.xyz", *KNOWN), "text.xyz: frame 0, line 1: expected the number of atoms"),
        (("score", "run.xyz", "-r", "torn.safetensors"), "torn.safetensors: expected a reference file"),
        (("reference", "build", "torn.xyz"), "torn.xyz: frame 11"),
        # numbers
        (("score", "run.xyz", *KNOWN, "--false-alarms", "nan"), "--false-alarms: expected a rate between 0 and 1"),
        (
            ("calibrate", "train.safetensors", "--false-alarms", "1e9"),
            "--false-alarms: expected a rate between 0 and 1",
        ),
        (
            ("calibrate", "train.safetensors", "--statistics", "dh_max,dh_min"),
            "--statistics: expected 'all' or some of",
        ),
        (("calibrate", "train.safetensors", "--per", "hour"), "per: expected 'check', 'ns' or 'run', got 'hour'"),
        (("calibrate", "train.safetensors", "--atoms", "-5"), "--atoms: expected an integer of at least 1, got -5"),
        (("calibrate", "train.safetensors", "--seed", "-1"), "--seed: expected an integer of at least 0, got -1"),
        (("calibrate", "train.safetensors", "--threads", "0"), "--threads: expected an integer of at least 1, got 0"),
        (("score", "run.xyz", *KNOWN, "--threads", "0"), "--threads: expected an integer of at least 1, got 0"),
        (("score", "run.xyz", *KNOWN, "--patience", "0"), "patience: expected an integer of at least 1, got 0"),
        (("reference", "build", "train.xyz", "--bandwidth", "nan"), "bandwidth: expected a positive finite number"),
        # outputs, refused before the work
        (("reference", "build", "train.xyz", "-o", "a/x.safetensors"), "--output: the folder of a/x.safetensors does"),
        (("reference", "build", "train.xyz", "-o", "x.txt"), "--output: expected a name that ends in .safetensors"),
        (("calibrate", "train.safetensors", "-o", "a/x.json"), "--output: the folder of a/x.json does not exist"),
        (("score", "run.xyz", *KNOWN, "--log", "a/x.jsonl"), "--log: the folder of a/x.jsonl does not exist"),
        (("score", "run.xyz", *KNOWN, "--log", "."), "--log: . is a folder; name a file in it"),
        (("score", "run.xyz", *KNOWN, "--save", "a/x.xyz"), "--save: the folder of a/x.xyz does not exist"),
        (("score", "run.xyz", *KNOWN, "--plot", "x.png"), "--plot: needs the log; give --log run.jsonl too"),
        (("score", "run.xyz", *KNOWN, "--log", "x.jsonl", "--plot", "x.foo"), "--plot: expected a name that ends"),
        (("events", "run.jsonl", "--plot", "a/x.png"), "--plot: the folder of a/x.png does not exist"),
        (("score", "run.xyz", *KNOWN, "--log", "run.jsonl"), "log: run.jsonl already holds a run of 11 checks"),
        (("events", "run.jsonl", "--growth", "x.foo"), "--growth: expected a name that ends in"),
        (("events", "run.jsonl", "--kind", "novel,new"), "expected some of novel,transition,exploded, got 'new'"),
        (("score", "run.xyz", *KNOWN, "--sentinel", "a/x"), "--sentinel: the folder of a/x does not exist"),
        (("score", "run.xyz", *KNOWN, "--phase", "fcc"), "--phase: expected NAME=FILE such as fcc=fcc.safetensors"),
        (("score", "run.xyz", *KNOWN, "--phase", "a=b", "--phase", "a=c"), "--phase: 'a' is given twice"),
        (("score", "run.xyz", *KNOWN, "--max-temperature", "-1"), "--max-temperature: expected"),
        # what does not go together
        (("reference", "merge", "train.safetensors", "other.safetensors", "-o", "x.safetensors"), "bandwidth"),
        (("score", "run.xyz", "-r", "other.safetensors", "-c", "train.json"), "calibration: made for reference "),
        (("score", "run.xyz", *KNOWN, "-c", "train.json", "--false-alarms", "0.1"), "give one of the two"),
    ],
)
def test_misuse_gives_one_line_and_exit_code_2(quests_md, folder, arguments, said):
    before = {file: file.stat().st_size for file in folder.iterdir()}
    code, out, err = quests_md(*arguments)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert len(last) < 1100
    assert "Traceback" not in err
    assert {file: file.stat().st_size for file in folder.iterdir()} == before


def test_an_output_without_permission_is_refused_before_the_work(quests_md, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    said = "error: --output: x.safetensors cannot be written (no permission); choose another name\n"
    assert quests_md("reference", "build", "train.xyz", "-o", "x.safetensors") == (2, "", said)


def test_too_little_memory_is_one_line(quests_md, monkeypatch):
    def fail(*_args, **_kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(Reference, "load", fail)
    said = "error: out of memory (Unable to allocate 9 TiB); give fewer frames, or a smaller k\n"
    assert quests_md("reference", "info", "train.safetensors") == (2, "", said)


def test_an_unknown_command_or_option_is_exit_code_2(quests_md):
    for arguments in (("bogus",), ("score",), ("score", "run.xyz", "-r", "train.safetensors", "--bogus")):
        code, out, err = quests_md(*arguments)
        assert (code, out) == (2, "")
        assert "Error: " in err
