import pytest

from quests_md import Reference


def test_build_writes_a_reference_with_its_scores_and_info_repeats_it(quests_md, tmp_path):
    code, out, err = quests_md("reference", "build", "train.xyz", "-o", tmp_path / "a b.safetensors")
    assert (code, err) == (0, f"wrote {tmp_path / 'a b.safetensors'}\n")
    reference = Reference.load(tmp_path / "a b.safetensors")
    assert reference.n_environments == 24 * 32
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert said["fingerprint"] == reference.fingerprint
    assert said["content"] == "768 environments in 24 frames"
    assert said["elements"] == "Cu 768"
    assert said["levels"].startswith("promise: ")
    assert "  dh_max of Cu <= " in out
    code, again, err = quests_md("reference", "info", tmp_path / "a b.safetensors", "--verify")
    assert (code, err) == (0, "")
    assert again.startswith(out)
    likeliest, content = again[len(out) :].splitlines()
    assert likeliest.startswith("likeliest h none between 0.003 and 0.3 1/Å")
    assert content == "content     equals the checksums written at save"


def test_build_passes_its_settings_on(quests_md, tmp_path):
    options = ["--k", 8, "--cutoff", 4.5, "--bandwidth", 0.02, "--match", "any", "--groups", "frame"]
    code, out, _ = quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", *options)
    assert code == 0
    reference = Reference.load(tmp_path / "x.safetensors")
    settings = {key: reference.settings[key] for key in ("k", "cutoff", "bandwidth", "match")}
    assert settings == {"k": 8, "cutoff": 4.5, "bandwidth": 0.02, "match": "any"}
    assert "content     96 environments in 3 frames" in out


def test_a_reference_of_one_frame_says_that_it_has_no_level(quests_md, tmp_path):
    with pytest.warns(UserWarning, match="the level is a guess"):
        code, out, _ = quests_md("reference", "build", "train.xyz@0", "-o", tmp_path / "one.safetensors")
    assert code == 0
    assert "content     32 environments in 1 frame\n" in out
    assert "promise: none" in out


def test_merge_joins_references(quests_md, tmp_path):
    quests_md("reference", "build", "gold.xyz", "-o", tmp_path / "gold.safetensors")
    code, out, err = quests_md(
        "reference", "merge", "train.safetensors", tmp_path / "gold.safetensors", "-o", tmp_path / "both.safetensors"
    )
    assert (code, err) == (0, f"wrote {tmp_path / 'both.safetensors'}\n")
    assert Reference.load(tmp_path / "both.safetensors").elements == ("Cu", "Au")
    assert "elements    Cu 892, Au 4" in out
