"""WenetSpeech: segments of long recordings, in subsets that contain one another."""

import json

import pytest

from hf_asr.corpora import wenetspeech
from hf_asr.corpora.prepare import prepare
from hf_asr.corpora.wenetspeech import CORPUS
from hf_asr.data.sources import Source, read_row

from .published import loaded, write_noise


def audio(name, *segments):
    """An entry of the metadata: segments are begin, end and subsets."""
    entries = [
        {"sid": f"{name}_S{number}", "begin_time": begin, "end_time": end, "subsets": subsets, "text": f"第{number}"}
        for number, (begin, end, subsets) in enumerate(segments)
    ]
    return {"aid": name, "duration": 2.0, "path": f"audio/train/{name}.wav", "segments": entries}


@pytest.fixture
def published(tmp_path):
    audios = [
        audio("Y1", (0.1, 0.6, ["L"]), (0.75, 1.0, ["L", "M", "S"]), (1.0, 1.5, [])),
        audio("Y2", (0.0, 0.5, ["DEV"]), (0.5, 1.0, ["TEST_NET"]), (1.0, 1.5, ["TEST_MEETING"])),
        audio("Y3", (0.0, 0.5, ["L"])),
    ]
    for name in ("Y1", "Y2"):
        write_noise(tmp_path / f"audio/train/{name}.wav", seconds=2)
    text = json.dumps({"dataset": "WenetSpeech", "audios": audios}, ensure_ascii=False, indent=1)
    (tmp_path / "WenetSpeech.json").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("chunk", [50, 1 << 24])
def test_a_segment_is_a_part_of_its_recording(chunk, published, monkeypatch):
    monkeypatch.setattr(wenetspeech, "CHUNK", chunk)
    summary = prepare(CORPUS, published / "out", source=published)
    assert loaded(published / "out", "train") == {"Y1_S0": ("第0", None, 0.5), "Y1_S1": ("第1", None, 0.25)}
    assert len(read_row(Source(str(published / "out")).load("train")[1], sampling_rate=16000)) == 4000
    assert set(summary["speakers"]) == {"train", "dev", "test_net", "test_meeting"} and summary["skipped"] == 1
    assert "its 1 segments are left out" in (published / "out/skipped.jsonl").read_text()


def test_a_subset_is_chosen(published):
    prepare(CORPUS, published / "out", source=published, parts=["S", "DEV"])
    assert list(loaded(published / "out", "train")) == ["Y1_S1"]


@pytest.mark.parametrize(
    ("text", "reason"), [('{"audios": [{"aid": ', "cut short"), ('{"a": []}', "no list of audios")]
)
def test_damaged_metadata_leave_nothing(text, reason, published):
    (published / "WenetSpeech.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        prepare(CORPUS, published / "out", source=published)
    assert not list((published / "out").rglob("*.jsonl"))
