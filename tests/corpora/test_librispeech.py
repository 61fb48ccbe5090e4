"""LibriSpeech: a transcript file for each chapter, an archive for each part."""

from hf_asr.corpora.librispeech import CORPUS
from hf_asr.corpora.prepare import prepare

from .published import loaded, pack, write_noise, write_text


def write_part(root, part, *, speaker):
    chapter = root / "LibriSpeech" / part / speaker / "1240"
    write_noise(chapter / f"{speaker}-1240-0000.flac")
    write_text(chapter / f"{speaker}-1240.trans.txt", f"{speaker}-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE'S")
    return root


def test_the_training_parts_are_one_split(tmp_path):
    for part, speaker in (("train-clean-100", "103"), ("train-other-500", "20"), ("dev-clean", "84")):
        write_part(tmp_path, part, speaker=speaker)
    summary = prepare(CORPUS, tmp_path / "out", source=tmp_path)
    assert set(summary["parts"]) == {"train-clean-100", "train-other-500", "dev-clean"}
    train = loaded(tmp_path / "out", "train")
    assert train["103-1240-0000"] == ("CHAPTER ONE MISSUS RACHEL LYNDE'S", "103", 0.3) and len(train) == 2
    assert '"subset": "train-other-500"' in (tmp_path / "out/train/metadata.jsonl").read_text()
    assert list(loaded(tmp_path / "out", "dev-clean")) == ["84-1240-0000"]


def test_an_archive_of_a_missing_part_is_extracted(tmp_path):
    source = write_part(tmp_path / "source", "dev-clean", speaker="84")
    kept = source / "LibriSpeech/dev-clean/84/1240/84-1240-0000.flac"
    before = kept.stat().st_ino
    for part, speaker in (("dev-clean", "84"), ("test-clean", "61")):
        pack(source / f"{part}.tar.gz", write_part(tmp_path / f"raw-{part}", part, speaker=speaker))
    summary = prepare(CORPUS, tmp_path / "out", source=source)
    assert set(summary["parts"]) == {"dev-clean", "test-clean"} and kept.stat().st_ino == before
