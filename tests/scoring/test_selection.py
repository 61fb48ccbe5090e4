import pytest

from hf_asr.scoring.selection import describe_selection, is_partial


@pytest.mark.parametrize(
    ("selection", "words", "partial"),
    [
        (None, "", False),
        (
            {"held_out_share": 0.05, "by": "speaker", "seed": 42},
            "5 % held out of training (by speaker, seed 42)",
            False,
        ),
        ({"excluded_speakers": 1}, "without 1 speaker", False),
        (
            {"held_out_share": 0.125, "by": "utterance", "seed": 0, "excluded_speakers": 2},
            "12.5 % held out of training (by utterance, seed 0), without 2 speakers",
            False,
        ),
        ({"speakers": 1, "of": 6}, "1 of 6 speakers", True),
        ({"channel": 2}, "channel: 2", False),
    ],
)
def test_a_selection_is_described_in_words(selection, words, partial):
    assert describe_selection({"selection": selection}) == words
    assert is_partial({"selection": selection}) is partial


def test_metrics_without_a_selection_are_described():
    assert describe_selection({"cer": 0.1}) == "not recorded whether all of it" and not is_partial({"cer": 0.1})
