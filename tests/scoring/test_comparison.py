import json

import numpy as np
import pytest

from hf_asr.cli import main
from hf_asr.scoring.comparison import compare_predictions, read_predictions
from hf_asr.scoring.evaluation import write_results


def records(predictions: list[str], reference: str = "the quick brown fox") -> list[dict]:
    return [
        {"utterance_id": str(i), "reference": reference, "prediction": prediction}
        for i, prediction in enumerate(predictions)
    ]


def noisy(share: float, seed: int) -> list[dict]:
    """Return records in which each character is wrong with probability `share`."""
    generator = np.random.default_rng(seed)
    text = "the quick brown fox"
    return records(["".join("#" if generator.random() < share else c for c in text) for _ in range(200)])


def test_equal_predictions_have_no_difference():
    result = compare_predictions(noisy(0.1, 0), noisy(0.1, 0))
    assert result.verdict.startswith("no difference") and result.low == result.high == 0 and not result.moved


def test_equal_quality_has_no_significant_difference():
    found = [compare_predictions(noisy(0.1, seed), noisy(0.1, seed + 100)).verdict for seed in range(20)]
    assert sum(verdict.startswith("no difference") for verdict in found) >= 17  # 19 of 20 are expected


@pytest.mark.parametrize(("share", "verdict"), [(0.05, "B is better"), (0.15, "A is better")])
def test_a_real_difference_is_found_with_its_sign(share, verdict):
    result = compare_predictions(noisy(0.1, 0), noisy(share, 1))
    assert result.verdict.startswith(verdict)
    assert result.low <= result.cer_b - result.cer_a <= result.high


def test_changed_utterances_are_sorted_by_change():
    a = records(["the quick brown fox", "the quick brown", "the quick brown fox"])
    b = records(["the quick brown fix", "the quick brown fox", "the quick brown fox"])
    assert [
        (entry["utterance_id"], entry["errors_a"], entry["errors_b"]) for entry in compare_predictions(a, b).moved
    ] == [
        ("1", 4, 0),
        ("0", 0, 1),
    ]


def test_different_utterances_or_references_are_an_error():
    with pytest.raises(ValueError, match="1 are in one only, as .'2'"):
        compare_predictions(records(["a"] * 3), records(["a"] * 2))
    with pytest.raises(ValueError, match="two references, 'a' and 'b'"):
        compare_predictions(records(["a"], "a"), records(["a"], "b"))


@pytest.mark.parametrize("names", [["a.wav"], ["a.wav", "b.wav"], ["x/a.wav", "y/a.wav"], ["x/a.wav", "a.wav"]])
def test_the_same_data_under_another_path_is_compared(names):
    def below(folder: str) -> list[dict]:
        return [{"utterance_id": folder + name, "reference": name, "prediction": name} for name in names]

    for other in ("/tmp/mini/", ""):
        result = compare_predictions(below("mini/"), below(other)[::-1])
        assert result.utterances == len(names) and not result.moved


@pytest.mark.parametrize("others", [["mini/a", "mini/c"], ["mini/x/a", "mini/y/b"], ["mini/a"], ["a", "a"], []])
def test_other_files_under_another_path_are_an_error(others):
    sides = [
        [record | {"utterance_id": name} for name, record in zip(ids, records(["a"] * len(ids)), strict=True)]
        for ids in (["/tmp/mini/a", "/tmp/mini/b"], others)
    ]
    for a, b in (sides, sides[::-1]):
        with pytest.raises(ValueError, match="are in one only"):
            compare_predictions(a, b)


def test_the_command_compares_folders_and_checkpoints(checkpoint, corpus, tmp_path, capsys):
    for name, predictions in (("a", noisy(0.1, 0)), ("b", noisy(0.02, 1))):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(record) + "\n" for record in predictions)
        (tmp_path / name / "predictions.jsonl").write_text(lines)
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--show", "2"])
    out = capsys.readouterr().out
    assert "B is better" in out and out.count("reference: ") == 2
    main(["compare", str(checkpoint), str(checkpoint), "--dataset_name", str(corpus), "--output_format", "json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"].startswith("no difference")
    with pytest.raises(SystemExit, match="predictions.jsonl does not exist: evaluate into that folder"):
        main(["compare", str(checkpoint), str(tmp_path / "a")])


def test_written_predictions_are_read_back_exactly(tmp_path):
    texts = ["line\u2028separator", "next\x85line", 'tab\t"quote"', "half a pair \ud83d", "name \udcff.wav", "打开"]
    written = records(texts, reference="a\x0cb") + [{"utterance_id": "\ud800", "reference": "", "prediction": ""}]
    write_results(tmp_path, {"cer": 0.5}, written)
    assert read_predictions(tmp_path) == written
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # saved again by an editor
    assert read_predictions(tmp_path) == written


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"utterance_id": "x"}'])
def test_a_damaged_line_of_predictions_is_an_error(tmp_path, line):
    (tmp_path / "predictions.jsonl").write_text(json.dumps(records(["a"])[0]) + f"\n{line}\n")
    with pytest.raises(ValueError, match="predictions.jsonl, line 2 is damaged"):
        read_predictions(tmp_path)


def test_empty_references_cannot_be_compared():
    with pytest.raises(ValueError, match="all 1 references are empty"):
        compare_predictions(records(["a"], reference=""), records([""], reference=""))
    with pytest.raises(ValueError, match="there is no utterance"):
        compare_predictions([], [])
