"""Archives arrive completely or not at all, and interrupted downloads and extractions go on."""

import hashlib
import tarfile

import pytest

from hf_asr.corpora.archives import download, extract
from hf_asr.corpora.corpus import Archive

from .published import pack

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_dropped_connection_goes_on_where_it_ended(serve, tmp_path):
    with serve({"a.tgz": CONTENT}) as server:
        server.cuts = [300_000, 500_000]
        path = download(Archive(f"{server.url}/a.tgz", MD5), tmp_path)
        assert path.read_bytes() == CONTENT and server.ranges == [None, "bytes=300000-", "bytes=800000-"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.tgz"]
        assert download(Archive(f"{server.url}/a.tgz", MD5), tmp_path) == path and len(server.ranges) == 3


def test_a_second_run_continues_the_download(serve, tmp_path):
    with serve({"a.tgz": CONTENT}) as server:
        server.cuts = [300_000] + [0] * 6  # it gives up after six tries without a byte
        with pytest.raises(OSError, match="a.tgz"):
            download(Archive(f"{server.url}/a.tgz", MD5), tmp_path)
        assert (tmp_path / "a.tgz.partial").stat().st_size == 300_000 and len(server.ranges) <= 7
        server.cuts.clear()
        assert download(Archive(f"{server.url}/a.tgz", MD5), tmp_path).read_bytes() == CONTENT
        assert server.ranges[-1] == "bytes=300000-"


def test_a_download_that_was_complete_but_not_renamed_is_used(serve, tmp_path):
    (tmp_path / "a.tgz.partial").write_bytes(CONTENT)
    with serve({"a.tgz": CONTENT}) as server:
        assert download(Archive(f"{server.url}/a.tgz", MD5), tmp_path).read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_everything_again(serve, tmp_path):
    (tmp_path / "a.tgz.partial").write_bytes(CONTENT[:1000])
    with serve({"a.tgz": CONTENT}) as server:
        server.knows_ranges = False
        assert download(Archive(f"{server.url}/a.tgz", MD5), tmp_path).read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_deleted(serve, tmp_path):
    with serve({"a.tgz": CONTENT[:-1] + b"?"}) as server, pytest.raises(ValueError, match=f"instead of {MD5}"):
        download(Archive(f"{server.url}/a.tgz", MD5), tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_address_without_a_file_is_an_error(serve, tmp_path):
    with serve({}) as server, pytest.raises(OSError, match="none.tgz.*404"):
        download(Archive(f"{server.url}/none.tgz"), tmp_path)


def test_archives_are_extracted_into_what_is_there(tmp_path):
    for name in ("a", "b"):
        extract(pack(tmp_path / f"{name}.tgz", {"top/LICENSE": b"x", f"top/{name}/1.txt": name.encode()}), tmp_path)
    assert (tmp_path / "top/a/1.txt").read_text() == "a" and (tmp_path / "top/b/1.txt").read_text() == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "b.tgz", "top"]


@pytest.mark.parametrize("damage", ["cut", "cut at the end", "changed", "no archive"])
def test_a_damaged_archive_leaves_nothing(damage, tmp_path):
    path = pack(tmp_path / "a.tgz", {f"top/{number}": CONTENT[number:] for number in range(3)})
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 255
    lengths = {"cut": len(content) // 2, "cut at the end": len(content) - 5, "no archive": 0}
    path.write_bytes(content[: lengths.get(damage)] or b"<html>Not found</html>")
    with pytest.raises(ValueError, match="a.tgz is damaged or cut short"):
        extract(path, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.parametrize("name", ["../outside.txt", "top/../../outside.txt", "link"])
def test_a_member_outside_the_folder_is_refused(name, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = pack(folder / "a.tgz", {name: b"x"})
    if name == "link":
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, "../../etc"
            archive.addfile(member)
    with pytest.raises(ValueError, match="a.tgz is refused"):
        extract(path, folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["inside"] and len(list(folder.iterdir())) == 1
