"""What is printed out of files of anyone: a terminal obeys none of it, and megabytes are cut."""

import json
import re

import pytest
from logs import CALIBRATION, HEADER, check_line, checks_of, event
from logs import write as write_lines
from safetensors import safe_open
from safetensors.numpy import save_file

#: Erase the screen, turn the direction of writing, a control sequence of one character, a bell, a return.
EVIL = "a\x1b[2J\u202e\x9b31m\x07\rb\u2066"
LARGE = "x" * 3_000_000


def is_harmless(text):
    return all(c.isprintable() or c in "\n\t" for c in text)


def log_with(tmp_path, text):
    """A log whose texts are all this one."""
    checks = checks_of("iooo")
    near = {"distance": 5.0, "source": text, "frame": 4, "atom": 2}
    worst = {"atom": 3, "element": text, "delta_entropy": 5.0, "coordination": 3, "nearest": near}
    line = event(checks, 1, 3, kind="transition", reason=text, phase=text, worst_element=text).to_line()
    line |= {"alarms": [text, "dh_max"], "nearest": near, "environments": [worst], "size_history": [[10, 1], [30, 9]]}
    checks = [
        check_line(i, state=check.state, worst_element=text, explosion=text, alarms=[text], phases={text: 3})
        for i, check in enumerate(checks)
    ]
    notes = [{"type": "note", "level": "warning", "step": 3, "message": text}] * 50
    calibration = CALIBRATION | {"statistics": [text], "promise": text, "kind": text, "per": text}
    reference = {"n_environments": 3, "elements": [text], "bandwidth": 0.1, "fingerprint": text}
    path = tmp_path / "evil.jsonl"
    header = HEADER | {"reference": reference, "calibration": calibration, "host": text, "started": text}
    write_lines(path, header | {"phases": {"parent": text}}, *checks, line, *notes)
    return path


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", [EVIL, LARGE, "$\\frac{"])
def test_texts_of_a_log(quests_md, tmp_path, text):
    log = log_with(tmp_path, text if text is not LARGE else "x" * 150_000)
    plots = ("--plot", tmp_path / "a.png", "--growth", tmp_path / "b.svg")
    for command in (
        ("events", log),
        ("events", log, "--details"),
        ("events", log, *plots),
        ("score", "run.xyz", "-r", "train.safetensors", "--log", log),
    ):
        code, out, err = quests_md(*command)
        assert code == (2 if command[0] == "score" else 0)
        assert is_harmless(out + err)
        assert len(out + err) < 60_000
    code, out, _ = quests_md("events", log, "--json")
    assert is_harmless(out)
    assert json.loads(out)[0]["reason"] == (text if text is not LARGE else "x" * 150_000)


def test_names_and_labels_of_frames(quests_md, tmp_path):
    file, lines = tmp_path / f"{EVIL}.xyz", "2\ncomment {}\n{} 0 0 0\n{} 0 0 2\n"
    for text in (EVIL.replace("\r", ""), LARGE):
        file.write_text(lines.format(text, text, text), encoding="utf-8")
        code, out, err = quests_md("score", file, "-r", "train.safetensors")
        assert code == 2
        assert "error: " in err
        assert is_harmless(out + err)
        assert len(out + err) < 5000


def test_texts_of_a_reference(quests_md, folder, tmp_path):
    with safe_open(folder / "train.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        header = json.loads(file.metadata()["quests_md"])
    for text in (EVIL, EVIL + "\n" + EVIL, LARGE):
        header["sources"] = [text] * len(header["sources"])
        header["provenance"] |= {"created": text, "groups": text, "parents": [text] * 3, "left_out": {text: 3}}
        header["provenance"]["versions"] = {"quests_md": text}
        header["settings"]["note"] = text
        save_file(arrays, tmp_path / "evil.safetensors", metadata={"quests_md": json.dumps(header)})
        for command in (("reference", "info"), ("calibrate",), ("score", "run.xyz", "-r")):
            code, out, err = quests_md(*command, tmp_path / "evil.safetensors")
            assert code == 0
            assert is_harmless(out + err)
            assert len(out + err) < 60_000


def test_texts_of_a_calibration(quests_md, folder, tmp_path):
    for text in (EVIL, LARGE):
        content = json.loads((folder / "train.json").read_text())
        content["how"] = content["origin"]["how"] = text
        (tmp_path / "evil.json").write_text(json.dumps(content))
        code, out, err = quests_md("score", "run.xyz", "-r", "train.safetensors", "-c", tmp_path / "evil.json")
        assert code == 0
        assert is_harmless(out + err)
        assert len(out + err) < 30_000
        for name in ("type", "statistics", "per", "fingerprint"):
            (tmp_path / "evil.json").write_text(json.dumps(content | {name: text}))
            code, out, err = quests_md("score", "run.xyz", "-r", "train.safetensors", "-c", tmp_path / "evil.json")
            assert code == 2
            assert is_harmless(out + err)
            assert len(out + err) < 5000


def test_sentinels_and_logs_hold_nothing_that_steers_a_terminal(folder, tmp_path):
    log = log_with(tmp_path, EVIL)
    assert is_harmless(log.read_text(encoding="utf-8"))
    assert re.search(r'"reason": "a\\u001b\[2J\\u202e\\u009b31m\\u0007\\rb\\u2066"', log.read_text(encoding="utf-8"))
