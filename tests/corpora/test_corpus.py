"""The root of a published layout is found, and what an interrupted extraction leaves is not."""

import pytest

from hf_asr.corpora import aishell1, common_voice, librispeech


@pytest.mark.parametrize("below", [".", "LibriSpeech", "corpora/LibriSpeech"])
def test_the_root_may_be_below_the_folder(below, tmp_path):
    (tmp_path / below / "dev-clean").mkdir(parents=True)
    root = librispeech.CORPUS.find_root(tmp_path)
    assert root == tmp_path / below and librispeech.CORPUS.parts_in(root) == ["dev-clean"]


@pytest.mark.parametrize("below", [".dev-clean.tar.gz.partial/LibriSpeech", "a/b/c", "LibriSpeech/other"])
def test_other_folders_are_no_root(below, tmp_path):
    (tmp_path / below / ("dev" if "other" in below else "dev-clean")).mkdir(parents=True)
    assert librispeech.CORPUS.find_root(tmp_path) is None and librispeech.CORPUS.parts_in(None) == []


def test_the_root_is_found_before_its_archives_are_extracted(tmp_path):
    transcript = tmp_path / "data_aishell" / aishell1.TRANSCRIPT
    transcript.parent.mkdir(parents=True)
    transcript.write_text("")
    assert aishell1.CORPUS.find_root(tmp_path) == tmp_path / "data_aishell"


def test_a_language_names_its_folder(tmp_path):
    for language in ("en", "zh-CN"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "train.tsv").write_text("")
    assert common_voice.CORPUS.find_root(tmp_path, "zh-CN") == tmp_path / "zh-CN"
    assert common_voice.CORPUS.find_root(tmp_path, "de") is None
    with pytest.raises(ValueError, match="choose one with --language"):
        common_voice.CORPUS.find_root(tmp_path)
