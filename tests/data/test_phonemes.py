"""Characters that are a syllable each have sounds; letters have none."""

from hf_asr.data.phonemes import sounds_of


def test_characters_of_the_same_syllable_share_all_sounds():
    sounds = sounds_of(["他", "她", "妈", "马", "a", "把空", "。", "安", "<pad>"], language="zh")
    assert list(sounds) == ["他", "她", "妈", "马", "安"]
    assert sounds["他"] == sounds["她"] != sounds["妈"]
    assert sounds["妈"] == [
        ("syllable", "m", "A55"),
        ("toneless", "m", "A"),
        ("first", "m"),
        ("rest", "A"),
        ("tone", "55"),
    ]
    equal = [a == b for a, b in zip(sounds["妈"], sounds["马"], strict=True)]
    assert equal == [False, True, True, True, False]


def test_a_character_that_espeak_ng_cannot_read_has_no_sounds():
    assert list(sounds_of(["熊", "好"], language="zh")) == ["好"]
    assert not sounds_of(["好"], language="de")


def test_syllables_of_korean_have_sounds_without_tones():
    assert {sound[1:] for sound in sounds_of(["나", "너"], language="ko")["나"]} >= {("n",), ()}
