"""Which files of an earlier export a new one keeps and removes, and what an interrupted export leaves."""

import json
from pathlib import Path

import pytest

from hf_asr.export.folder import check_folder, move_in, partial_folder, read_export_report

ONE, OTHER = "1" * 64, "2" * 64  # sha256 of weights


def put(output_dir: Path, *names: str, weights: str = ONE, target: str = "onnx", refused: tuple = (), text: str = "x"):
    """Move an export with these graphs into the folder."""
    entries = [{"file": name, "target": target, "model_sha256": weights} for name in names]
    beside = {"sherpa-onnx": ["tokens.txt"], "tensorrt": ["tensorrt_profile.json"]}.get(target, [])
    with partial_folder(output_dir) as folder:
        for name in [
            *names,
            *beside,
            "config.json",
            "processor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]:
            (folder / name).write_text(f"{text} of {weights}")
        if target == "tensorrt":
            (folder / "tensorrt_engine").mkdir()
            (folder / "tensorrt_engine" / "engine").write_text(weights)
        reasons = [{"file": name, "reason": "differs"} for name in refused]
        move_in(folder, output_dir, graphs=entries, refused=reasons)


def graph_names(output_dir: Path) -> set[str]:
    names = {path.name for path in output_dir.iterdir()}
    return names - {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_an_earlier_graph_of_other_weights_is_removed(tmp_path):
    put(tmp_path, "model.onnx", "model.int8.onnx")
    put(tmp_path, "model.onnx", weights=OTHER)
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"}
    assert [entry["model_sha256"] for entry in read_export_report(tmp_path)["graphs"]] == [OTHER]


def test_an_earlier_graph_of_the_same_weights_is_kept(tmp_path):
    put(tmp_path, "model.onnx", "model.int8.onnx")
    put(tmp_path, "model_with_frontend.onnx")
    assert graph_names(tmp_path) == {"model.onnx", "model.int8.onnx", "model_with_frontend.onnx", "export_report.json"}
    assert len(read_export_report(tmp_path)["graphs"]) == 3


def test_an_earlier_graph_is_removed_if_the_new_one_is_refused(tmp_path):
    put(tmp_path, "model.onnx", "model.int8.onnx")
    put(tmp_path, "model.onnx", refused=("model.int8.onnx",))
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"}
    assert read_export_report(tmp_path)["refused"] == [{"file": "model.int8.onnx", "reason": "differs"}]


def test_an_earlier_graph_is_removed_if_the_processor_is_another_one(tmp_path):
    put(tmp_path, "model.onnx", "model.int8.onnx")
    put(tmp_path, "model.onnx", text="another")
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"}


@pytest.mark.parametrize("target", ["sherpa-onnx", "tensorrt", "openvino"])
def test_files_of_another_target_are_removed(tmp_path, target):
    graph = "model.xml" if target == "openvino" else "model.onnx"
    put(tmp_path, graph, "model.int8.onnx", target=target)
    (tmp_path / "model.bin").write_text("weights of model.xml" if target == "openvino" else "of the user")
    put(tmp_path, "model.onnx")
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"} | (
        set() if target == "openvino" else {"model.bin"}
    )


def test_a_new_engine_replaces_the_earlier_one(tmp_path):
    put(tmp_path, "model.onnx", target="tensorrt")
    (tmp_path / "tensorrt_engine" / "of_an_older_graph").write_text("")
    put(tmp_path, "model.onnx", target="tensorrt", weights=OTHER)
    assert [path.read_text() for path in (tmp_path / "tensorrt_engine").iterdir()] == [OTHER]


def test_files_of_the_user_are_kept(tmp_path):
    put(tmp_path, "model.onnx", "model.int8.onnx")
    foreign = ["notes.txt", "left_over.onnx", "recordings/a.wav", ".hidden"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    put(tmp_path, "model.onnx", weights=OTHER)
    assert all((tmp_path / name).read_text() == name for name in foreign)


def test_names_in_an_edited_report_remove_nothing_else(tmp_path):
    outside, folder = tmp_path / "outside.onnx", tmp_path / "folder"
    outside.write_text("")
    (folder / "kept.onnx").mkdir(parents=True)
    entries = [{"file": name, "target": "onnx"} for name in ("../outside.onnx", "kept.onnx", "..", ".")]
    (folder / "export_report.json").write_text(json.dumps({"graphs": entries, "stale": ["../outside.onnx", "..", ""]}))
    put(folder, "model.onnx")
    assert outside.is_file() and (folder / "kept.onnx").is_dir()


def test_without_a_new_graph_the_earlier_export_is_kept_and_the_refusal_recorded(tmp_path):
    put(tmp_path, "model.onnx")
    before = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "export_report.json"}
    put(tmp_path, weights=OTHER, refused=("model.onnx",))
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.name in before} == before
    report = read_export_report(tmp_path)
    assert report["graphs"][0]["model_sha256"] == ONE and report["refused"][0]["file"] == "model.onnx"


def test_an_interrupted_export_leaves_the_earlier_one(tmp_path):
    put(tmp_path, "model.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt), partial_folder(tmp_path) as folder:
        (folder / "model.onnx").write_text("half")
        raise KeyboardInterrupt
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(KeyboardInterrupt), partial_folder(tmp_path / "new") as folder:
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


def test_the_remains_of_a_killed_export_are_removed_by_the_next_one(tmp_path):
    (tmp_path / ".export.partial").mkdir()
    (tmp_path / ".export.partial" / "model.onnx").write_text("half")
    put(tmp_path, "model.onnx")
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"}


def test_an_export_interrupted_while_moving_lists_no_graph_until_the_next_export(tmp_path, monkeypatch):
    put(tmp_path, "model.onnx", "model.int8.onnx", target="sherpa-onnx")
    replace = Path.replace

    def stops_at_the_configuration(path: Path, target: Path) -> Path:
        if path.name == "config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stops_at_the_configuration)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, "model.onnx", "model.fp16.onnx", weights=OTHER)
    assert read_export_report(tmp_path)["graphs"] == []
    monkeypatch.undo()
    put(tmp_path, "model.onnx", weights=OTHER)
    assert graph_names(tmp_path) == {"model.onnx", "export_report.json"}
    assert "stale" not in read_export_report(tmp_path)


def test_another_checkpoint_is_not_overwritten(tone_checkpoint, other_tone_checkpoint, tmp_path):
    check_folder(tone_checkpoint, checkpoint=str(tone_checkpoint))
    with pytest.raises(ValueError, match="holds another checkpoint"):
        check_folder(other_tone_checkpoint, checkpoint=str(tone_checkpoint))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file, a folder is expected"):
            check_folder(path, checkpoint=str(tone_checkpoint))
