"""TextGrid and CTM can be read again, and file names of recordings are safe."""

import re

import pytest

from hf_asr.decoding.annotations import file_names, to_ctm, to_textgrid
from hf_asr.decoding.transcript import Word

TIER = re.compile(r'class = "IntervalTier"\s+name = "(.*)"\s+xmin = (\S+)\s+xmax = (\S+)\s+intervals: size = (\d+)')
INTERVAL = re.compile(r'intervals \[(\d+)\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"\n')


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """Return the intervals of each tier, after checking what Praat demands of them."""
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    end = float(re.search(r"\nxmax = (\S+)\n", text)[1])
    tiers = {}
    for part in re.split(r"    item \[\d+\]:\n", text)[1:]:
        name, first, last, size = TIER.search(part).groups()
        found = [(float(a), float(b), label.replace('""', '"')) for _, a, b, label in INTERVAL.findall(part)]
        assert [int(number) for number, *_ in INTERVAL.findall(part)] == list(range(1, int(size) + 1))
        assert float(first) == found[0][0] == 0 and float(last) == found[-1][1] == end
        assert all(a < b for a, b, _ in found)
        assert all(left[1] == right[0] for left, right in zip(found, found[1:], strict=False))
        tiers[name] = found
    assert len(tiers) == int(re.search(r"\nsize = (\d+)\n", text)[1])
    return tiers


def test_a_textgrid_has_the_words_and_empty_intervals_between_them():
    words, tokens = [Word("you", 0.25, 0.5), Word('"so"', 0.5, 0.75)], [Word("▁you", 0.3, 0.5)]
    assert read_textgrid(to_textgrid({"words": words, "tokens": tokens}, duration=1.5)) == {
        "words": [(0, 0.25, ""), (0.25, 0.5, "you"), (0.5, 0.75, '"so"'), (0.75, 1.5, "")],
        "tokens": [(0, 0.3, ""), (0.3, 0.5, "▁you"), (0.5, 1.5, "")],
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [(0, 1, "")]),
        ([Word("a", 0, 1)], [(0, 1, "a")]),
        (
            [Word("a", 0.5, 0.5), Word("b", 0.5, 0.5)],
            [(0, 0.5, ""), (0.5, 0.501, "a"), (0.501, 0.502, "b"), (0.502, 1, "")],
        ),
        ([Word("a", 1, 1), Word("b", 1, 1)], [(0, 1, ""), (1, 1.001, "a"), (1.001, 1.002, "b")]),
    ],
    ids=["no words", "one word", "words without a length", "words at the end"],
)
def test_no_word_is_lost_and_no_interval_is_empty(words, expected):
    tiers = read_textgrid(to_textgrid({"words": words, "tokens": []}, duration=1.0))
    assert tiers["words"] == expected
    assert tiers["tokens"] == [(0, expected[-1][1], "")]


def test_a_ctm_has_a_line_for_each_word():
    lines = to_ctm([Word("you", 0.25, 0.5, 0.875), Word("so", 0.5, 0.75)], name="a_1")
    assert lines == "a_1 1 0.250 0.250 you 0.875\na_1 1 0.500 0.250 so 1.000\n"


def test_file_names_stay_inside_their_folder():
    assert file_names(["/data/a.flac", "../../etc/passwd", "..", "", "C:\\x\\b.WAV", ".hidden", "x y\n"]) == [
        "a",
        "passwd",
        "utterance",
        "utterance-2",
        "b",
        "hidden",
        "x_y_",
    ]
    assert file_names(["B/开灯.mp3", "C/开灯.wav", "a.b", "A.B"]) == ["开灯", "开灯-2", "a.b", "A.B-2"]
    (name,) = file_names(["开" * 1000])
    assert len(name.encode()) <= 150 and set(name) == {"开"}
    assert file_names(["\udcff.wav"]) == ["_"]
