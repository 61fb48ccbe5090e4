"""Each recording has its own file for its transcript, at a predictable path."""

from pathlib import Path

import pytest

from hf_asr.decoding.paths import find_recordings, output_paths


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ("a/1.wav", "a/deep/1.wav", "b/1.wav", "b/1.mp3", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(*paths: str, output_dir: str = "out") -> list[str]:
    given = [Path(path) for path in paths]
    return [str(target) for target in output_paths(find_recordings(given), given, Path(output_dir), suffix=".txt")]


def test_transcripts_keep_the_path_below_the_searched_folder(folder):
    assert chosen(".") == [f"out/{name}.txt" for name in ("a/1.wav", "a/deep/1.wav", "b/1.mp3", "b/1.wav")]
    assert chosen("b") == ["out/1.mp3.txt", "out/1.wav.txt"]
    assert chosen(str(folder / "b")) == chosen("a/../b") == chosen("b")


def test_two_folders_with_equal_file_names_keep_their_names(folder):
    assert chosen("a", "b") == [f"out/{name}.txt" for name in ("a/1.wav", "a/deep/1.wav", "b/1.mp3", "b/1.wav")]
    assert chosen("a/1.wav", "b/1.wav") == ["out/a/1.wav.txt", "out/b/1.wav.txt"]
    assert chosen("a/deep", "b/1.mp3") == ["out/1.wav.txt", "out/1.mp3.txt"]  # the names differ anyway


def test_names_that_differ_only_in_capitals_get_different_paths(folder):
    (folder / "b" / "1.WAV").write_bytes(b"sound")
    assert chosen("a/1.wav", "b/1.WAV") == ["out/a/1.wav.txt", "out/b/1.WAV.txt"]


@pytest.mark.parametrize("again", ["a/1.wav", "a", "./a/../a/1.wav", "absolute"])
def test_a_recording_given_twice_is_transcribed_once(folder, again):
    again = str(folder / "a" / "1.wav") if again == "absolute" else again
    assert [str(source.path) for source in find_recordings([Path("a/1.wav"), Path(again)])].count("a/1.wav") == 1
    assert len(find_recordings([Path("a/1.wav"), Path(again)])) == (2 if again == "a" else 1)


def test_linked_folders_and_links_to_nothing_are_recordings_and_companion_files_are_not(folder):
    (folder / "b" / "link").symlink_to("../a/deep")
    (folder / "b" / "gone.wav").symlink_to("nowhere.wav")
    (folder / "b" / "._1.wav").write_bytes(b"Mac OS X")
    assert chosen("b") == [f"out/{name}.txt" for name in ("1.mp3", "1.wav", "gone.wav", "link/1.wav")]


def test_no_path_is_outside_the_output_folder(folder):
    for target in chosen("a/1.wav", "b/../a/deep/1.wav", str(folder / "b" / "1.wav")):
        assert ".." not in target and target.startswith("out/")


def test_a_path_that_would_replace_a_recording_is_an_error(folder):
    (folder / "a" / "1.wav.txt").write_bytes(b"a recording by a strange name")
    with pytest.raises(ValueError, match=r"would replace the recording a/1.wav.txt: give another --output_dir"):
        chosen("a/1.wav", "a/1.wav.txt", output_dir="a")
