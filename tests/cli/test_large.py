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
