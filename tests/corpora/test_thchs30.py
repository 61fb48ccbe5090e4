"""THCHS-30: folders of links into one folder of recordings and transcripts."""

import pytest

from hf_asr.corpora.prepare import prepare
from hf_asr.corpora.thchs30 import CORPUS

from .published import loaded, write_noise, write_text

NAMES = {"train": ("A11_0", "B11_374"), "dev": ("C13_500",), "test": ("D4_750",)}


@pytest.mark.parametrize("as_links", [True, False], ids=["links", "texts"])
def test_links_and_pointers_are_followed(as_links, tmp_path):
    root = tmp_path / "data_thchs30"
    for part, names in NAMES.items():
        (root / part).mkdir(parents=True)
        for name in names:
            write_noise(root / "data" / f"{name}.wav")
            write_text(root / "data" / f"{name}.wav.trn", "判处 l = 六年 至 十 五年", "pan4 chu3", "p an4 ch u3")
            for file in (f"{name}.wav", f"{name}.wav.trn"):
                if as_links:
                    (root / part / file).symlink_to(f"../data/{file}")
                else:
                    write_text(root / part / file, f"../data/{file}")
    (root / "data/B11_374.wav").unlink()
    summary = prepare(CORPUS, tmp_path / "out", source=tmp_path)
    assert loaded(tmp_path / "out", "train") == {"A11_0": ("判处六年至十五年", "A11", 0.3)}
    assert set(loaded(tmp_path / "out", "test")) == {"D4_750"}
    assert summary["skipped"] == 1 and "B11_374" in (tmp_path / "out/skipped.jsonl").read_text()
