"""What holds for every corpus: parts, downloads, refusals."""

import dataclasses
import hashlib
import json

import pytest

from hf_asr.corpora import common_voice, librispeech, wenetspeech
from hf_asr.corpora.corpus import Archive
from hf_asr.corpora.prepare import prepare

from .published import loaded, pack, write_text
from .test_librispeech import write_part


def at(url, content):
    """LibriSpeech, published at another address."""
    archives = [
        Archive(f"{url}/{part}.tar.gz", hashlib.md5(data).hexdigest(), part=part) for part, data in content.items()
    ]
    return dataclasses.replace(librispeech.CORPUS, archives=tuple(archives))


@pytest.fixture
def content(tmp_path):
    """The archives of two parts, {part: bytes}."""
    return {
        part: pack(tmp_path / "x.tgz", write_part(tmp_path / part, part, speaker="84")).read_bytes()
        for part in ("train-clean-100", "dev-clean")
    }


def test_a_corpus_is_downloaded_and_a_second_run_downloads_nothing(serve, content, tmp_path):
    with serve({f"{part}.tar.gz": data for part, data in content.items()}) as server:
        corpus = at(server.url, content)
        server.cuts = [100]
        summary = prepare(corpus, tmp_path / "out", parts=["dev-clean", "train-clean-100"])
        assert summary["source"] == str(tmp_path / "out-source/LibriSpeech") and len(server.ranges) == 3
        before = (tmp_path / "out/train/metadata.jsonl").read_text()
        assert prepare(corpus, tmp_path / "out", parts=["dev-clean", "train-clean-100"]) == summary
    assert len(server.ranges) == 3 and (tmp_path / "out/train/metadata.jsonl").read_text() == before
    assert list(loaded(tmp_path / "out", "dev-clean")) == ["84-1240-0000"]


def test_an_offline_machine_learns_what_to_fetch(content, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    corpus = at("http://127.0.0.1:9", content)
    with pytest.raises(OSError, match="--source: http.*/train-clean-100.tar.gz, http.*/dev-clean.tar.gz"):
        prepare(corpus, tmp_path / "out", parts=["dev-clean", "train-clean-100"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("corpus", [common_voice.CORPUS, wenetspeech.CORPUS], ids=lambda corpus: corpus.title)
def test_a_corpus_behind_a_registration_is_not_downloaded(corpus, tmp_path):
    with pytest.raises(ValueError, match=f"{corpus.page}.*--source"):
        prepare(corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"parts": ["train-clean"]}, "no part 'train-clean'; its parts are: train-clean-100, "),
        ({"parts": ["test-other"]}, "has no test-other"),
        ({"language": "en"}, "one language"),
        ({"source": "nowhere"}, "is not a folder"),
        ({"source": "empty"}, "does not have the published layout of LibriSpeech"),
    ],
)
def test_a_wrong_request_is_one_sentence(options, reason, tmp_path):
    source = write_part(tmp_path / "source", "dev-clean", speaker="84")
    (tmp_path / "empty").mkdir()
    source = tmp_path / options.pop("source") if "source" in options else source
    with pytest.raises(ValueError, match=reason):
        prepare(librispeech.CORPUS, tmp_path / "out", source=source, **options)
    assert not (tmp_path / "out").exists()


def test_an_unusable_part_leaves_the_earlier_dataset(tmp_path):
    source = write_part(tmp_path / "source", "dev-clean", speaker="84")
    prepare(librispeech.CORPUS, tmp_path / "out", source=source)
    before = (tmp_path / "out/dev-clean/metadata.jsonl").read_text()
    write_part(tmp_path / "source", "test-clean", speaker="61")
    (source / "LibriSpeech/test-clean/61/1240/61-1240-0000.flac").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="no utterance of test-clean can be used: 61-1240-0000: .* not readable"):
        prepare(librispeech.CORPUS, tmp_path / "out", source=source)
    assert (tmp_path / "out/dev-clean/metadata.jsonl").read_text() == before
    assert [path.name for path in (tmp_path / "out").rglob("*.jsonl")].count("metadata.jsonl") == 1


def test_skipped_entries_are_listed(tmp_path):
    source = write_part(tmp_path / "source", "dev-clean", speaker="84")
    chapter = source / "LibriSpeech/dev-clean/84/1240"
    write_text(chapter / "84-1240.trans.txt", "84-1240-0000 A", "84-1240-0001 B")
    summary = prepare(librispeech.CORPUS, tmp_path / "out", source=source)
    (skipped,) = map(json.loads, (tmp_path / "out/skipped.jsonl").read_text().splitlines())
    assert skipped["utterance_id"] == "84-1240-0001" and summary["skipped"] == 1
    assert json.loads((tmp_path / "out/corpus.json").read_text()) == summary
