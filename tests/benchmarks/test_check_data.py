"""The benchmark swaps the transcripts that it counts."""

import importlib

from hf_asr.data.sources import Source


def test_swapped_transcripts_are_counted(repository, monkeypatch, corpus, tmp_path):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    benchmark = importlib.import_module("check_data")
    swapped = benchmark.write_swapped(str(corpus), tmp_path, share=0.2, seed=0)
    before, after = (Source(str(name)).load("train") for name in (corpus, tmp_path))
    differing = [a["utterance_id"] for a, b in zip(before, after, strict=True) if a["text"] != b["text"]]
    assert set(differing) == swapped and len(swapped) == 8
    assert sorted(before["text"]) == sorted(after["text"])
    assert before["audio"][:] == after["audio"][:]
    assert Source(str(tmp_path)).load("validation")["text"] == Source(str(corpus)).load("validation")["text"]
    names = sorted(swapped) + [name for name in before["utterance_id"] if name not in swapped]
    rows = [{"utterance_id": name, "is_kept": place > 5} for place, name in enumerate(names)]
    found = benchmark.found_share(rows, swapped)
    assert (found["in_worst_10_percent"], found["in_worst_5_percent"]) == (4 / 8, 2 / 8)
    assert (found["left_out"], found["left_out_swapped"]) == (6, 6)


def test_equal_texts_cannot_be_swapped(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    benchmark = importlib.import_module("check_data")
    assert benchmark.swap(["a"] * 10, share=0.5, seed=0) == (["a"] * 10, [])
