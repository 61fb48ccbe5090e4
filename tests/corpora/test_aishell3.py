"""AISHELL-3: characters and pinyin by turns."""

from hf_asr.corpora.aishell3 import CORPUS
from hf_asr.corpora.prepare import prepare

from .published import loaded, write_noise, write_text


def test_the_pinyin_is_removed(tmp_path):
    for part, speaker in (("train", "SSB0005"), ("test", "SSB0009")):
        write_text(
            tmp_path / part / "content.txt",
            f"{speaker}0001.wav\t广 guang3 州 zhou1 女 nv3",
            f"{speaker}0002.wav\t广 guang3 zhou1 州",
        )
        for number in (1, 2):
            write_noise(tmp_path / part / "wav" / speaker / f"{speaker}000{number}.wav")
    summary = prepare(CORPUS, tmp_path / "out", source=tmp_path)
    assert loaded(tmp_path / "out", "train") == {"SSB00050001": ("广州女", "SSB0005", 0.3)}
    assert summary["skipped"] == 2 and "does not alternate" in (tmp_path / "out/skipped.jsonl").read_text()
