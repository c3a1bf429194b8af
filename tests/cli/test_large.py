"""Commands and references of many rows."""

from references import H, rattled_cells, repeated

from quests_md import Descriptor, Reference


def test_info_of_many_rows_sets_no_levels(quests_md, tmp_path):
    few = Reference.from_frames(rattled_cells(500), descriptor=Descriptor(k=1, cutoff=3.0), bandwidth=H, groups="frame")
    repeated(few, 170).save(tmp_path / "many.safetensors")
    few.save(tmp_path / "few.safetensors")
    for name, is_large in (("many", True), ("few", False)):
        code, out, _ = quests_md("reference", "info", tmp_path / f"{name}.safetensors")
        assert code in (0, None)
        assert ("quests-md calibrate sets them" in out) is is_large
        assert ("promise:" in out) is not is_large


def test_thin_says_what_is_lost(quests_md, tmp_path):
    known = Reference.from_frames(rattled_cells(100, amplitude=0.02), bandwidth=H, groups="frame")
    known.save(tmp_path / "whole.safetensors")
    code, out, _ = quests_md("reference", "thin", tmp_path / "whole.safetensors", "-o", tmp_path / "small.safetensors")
    assert code in (0, None)
    small = Reference.load(tmp_path / "small.safetensors")
    assert f"{small.n_environments} of 400 environments" in out
    assert "dH of the others is at most 0.5 nats" in out
    assert "need a new calibration" in out
    assert small.fingerprint == known.thin(0.5).fingerprint
    code, _, err = quests_md("reference", "thin", tmp_path / "small.safetensors", "-o", tmp_path / "small.safetensors")
    assert code == 2
    assert "small.safetensors" in err


def test_build_in_single_precision(quests_md, folder, tmp_path):
    for options in ([], ["--single"]):
        code, _, _ = quests_md(
            *("reference", "build", folder / "train.xyz", "-o", tmp_path / "r.safetensors", "--groups", "frame"),
            *("--force", *options),
        )
        assert code in (0, None)
        known = Reference.load(tmp_path / "r.safetensors")
        assert known.precision == ("single" if options else "double")
        assert known.arrays.score is not None
