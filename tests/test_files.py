import json
import os

import pytest

from hf_asr.files import find_files, write_text, written_beside


def test_links_are_followed_once_and_those_to_nothing_are_files(tmp_path):
    for name in ("other/deep/c.wav", "folder/a/b.wav", "folder/a/._b.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "folder"
    for name, target in (("1", "../other"), ("2", "../other/deep"), ("3", "a"), ("a/loop", ".."), ("a/up", "../..")):
        (folder / name).symlink_to(target)
    for name, target in (("broken.wav", "nowhere.wav"), ("self.wav", "self.wav"), ("link.wav", "a/b.wav")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.wav")
    names = [str(path.relative_to(folder)) for path in find_files(folder)]
    assert names == ["1/deep/c.wav", "a/b.wav", "broken.wav", "link.wav", "self.wav"]
    (folder / "a" / "loop").unlink()
    (folder / "a" / "up").unlink()
    assert find_files(folder / "3") == [folder / "3" / "b.wav"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk is full"), written_beside(path) as partial:
        partial.write_bytes(b"ne")
        assert path.read_bytes() == b"old" and partial.suffix == ".png"
        raise OSError("the disk is full")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_text(path, "新")
    assert path.read_text(encoding="utf-8") == "新" and list(tmp_path.iterdir()) == [path]


def test_several_processes_may_write_a_file_at_once(tmp_path):
    path = tmp_path / "part.parquet"
    with written_beside(path, is_shared=True) as first, written_beside(path, is_shared=True) as second:
        first.write_bytes(b"same")
        second.write_bytes(b"same")
        assert not list(tmp_path.glob("*.parquet"))  # nobody reads what is not complete
    assert path.read_bytes() == b"same" and list(tmp_path.iterdir()) == [path]


def test_any_text_is_written_and_json_reads_it_back_unchanged(tmp_path):
    text = "caf\udce9.wav, half \ud83d, 新\u2028\r\n"
    write_text(tmp_path / "x.json", json.dumps({"name": text}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": text}
    write_text(tmp_path / "x.txt", "a\nb\n")
    assert (tmp_path / "x.txt").read_bytes() == b"a\nb\n"  # on every system
