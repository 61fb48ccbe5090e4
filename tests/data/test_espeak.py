import hashlib

import numpy as np
import pytest

from hf_asr.data.espeak import (
    CLEAR_VARIANTS,
    SAMPLE_RATE,
    VOICE_VARIANTS,
    make_recording,
    phonemize,
    speak,
    speak_with_times,
    voice_name,
    voices_by_language,
)

pytest.importorskip("espeakng_loader", reason="synthetic speech needs espeakng-loader")

VOICE = {"voice_variant": "f2", "rate_wpm": 175, "pitch": 50}


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="voice variant"):
        speak("one", language="en", voice_variant="m99", rate_wpm=175, pitch=50)


def test_speech_depends_on_its_arguments_only():
    first = speak("打开客厅的灯", language="zh", **VOICE)
    speak("turn on the light", language="en", voice_variant="m3", rate_wpm=120, pitch=30)
    np.testing.assert_array_equal(speak("打开客厅的灯", language="zh", **VOICE), first)


@pytest.mark.parametrize(
    ("language", "text", "phonemes"),
    [
        ("zh", "你好。打开", ["n", "i214", "X", "Au214", "t", "A214", "kh", "ai55"]),
        ("en", "IT is", ["I", "t#", "I", "z"]),
        ("zh", "玩儿", ["w", "A35", "n", "@r35"]),  # espeak-ng alone reads its pinyin in English
        ("zh", "熊跑", ["ph", "Au214"]),  # it does not know the syllable xiong
        ("zh", "看 tv", ["kh", "a51", "n", "t", "i:", "v", "i:"]),
        ("de", "A\u0308pfel", ["E", "p", "f", "@", "l"]),
        ("en", "…", []),
        ("en", "", []),
    ],
)
def test_a_text_has_phonemes_without_stress_and_pauses(language, text, phonemes):
    assert phonemize([text, "one", text], language=language)[::2] == [phonemes, phonemes]


def test_phonemes_do_not_disturb_speech():
    first = speak("one", language="en", **VOICE)
    phonemize(["zwei"], language="de")
    np.testing.assert_array_equal(speak("one", language="en", **VOICE), first)


def test_hanzi_are_read_as_one_syllable_each():
    texts = ["一", "二", "三", "四", "十", "灯", "厅", "歌"]
    recordings = [speak(text, language="zh", **VOICE) for text in texts]
    assert all(0.1 < len(samples) / SAMPLE_RATE < 0.5 for samples in recordings)
    for index, samples in enumerate(recordings):
        for other in recordings[:index]:
            length = min(len(samples), len(other))
            assert np.abs(samples[:length] - other[:length]).max() > 0.1


@pytest.mark.parametrize(
    ("language", "voice"),
    [
        ("zh", "cmn"),
        ("en", "en-us"),
        ("en-US", "en-us"),
        ("en-gb", "en"),
        ("de", "de"),
        ("hi", "hi"),
        ("pt_br", "pt-br"),
        ("yue", "yue"),
    ],
)
def test_a_language_has_its_own_voice(language, voice):
    assert voice_name(language) == voice


def test_espeak_speaks_more_than_a_hundred_languages():
    assert len(set(voices_by_language().values())) > 100


@pytest.mark.parametrize(
    ("language", "text"),
    [("de", "schöne Grüße"), ("hi", "नमस्ते"), ("fr", "ça va"), ("ja", "こんにちは"), ("ru", "привет")],
)
def test_other_languages_are_spoken(language, text):
    assert 0.3 < len(speak(text, language=language, **VOICE)) / SAMPLE_RATE < 2


def test_british_and_american_english_differ():
    british, american = (speak("the bath is hot", language=code, **VOICE) for code in ("en-gb", "en-us"))
    assert british.shape != american.shape


def test_an_unknown_language_is_refused_with_near_ones():
    with pytest.raises(ValueError, match="does not speak the language 'zh-tw'; did you mean zh, zh-cmn"):
        voice_name("zh-tw")
    with pytest.raises(ValueError, match="'deu'; did you mean .*de"):
        speak("eins", language="deu", **VOICE)


def test_a_voice_without_its_dictionary_is_not_offered():
    with pytest.raises(ValueError, match="does not speak the language 'fo'"):
        voice_name("fo")


def test_text_without_words_is_refused():
    with pytest.raises(ValueError, match="only silence for '???'".replace("?", "[?]")):
        speak("???", language="en", **VOICE)


def test_all_clear_variants_exist_and_differ():
    assert len(set(CLEAR_VARIANTS)) == len(CLEAR_VARIANTS) > 50
    assert CLEAR_VARIANTS[: len(VOICE_VARIANTS)] == VOICE_VARIANTS
    spoken = [speak("one", language="en", voice_variant=name, rate_wpm=175, pitch=50) for name in CLEAR_VARIANTS]
    assert len({hashlib.sha256(samples.tobytes()).digest() for samples in spoken}) == len(CLEAR_VARIANTS)


def test_a_recording_is_in_one_of_the_given_variants():
    generator = np.random.default_rng(0)
    speakers = {make_recording("eins", language="de", generator=generator, variants=("m1", "f5"))[1] for _ in range(8)}
    assert speakers == {"de+m1", "de+f5"}


def sounding_parts(samples: np.ndarray) -> list[tuple[float, float]]:
    """Return the starts and ends in seconds of the parts that are louder than 2 % of the maximum, 0.1 s apart."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() / 50) / SAMPLE_RATE
    cuts = np.flatnonzero(np.diff(loud) > 0.1)
    return [*zip(loud[[0, *(cuts + 1)]].tolist(), loud[[*cuts, -1]].tolist(), strict=True)]


@pytest.mark.parametrize("variant", ["m1", "m3", "f1"])
@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "one, sea, moon, ten", ["one,", "sea,", "moon,", "ten"]),
        ("zh", "灯，三，妈，海", ["灯", "三", "妈", "海"]),
    ],
)
def test_word_times_are_where_the_speech_is(language, text, expected, variant):
    """Also in a recording, which has silence and noise around the speech."""
    voice = {"voice_variant": variant, "rate_wpm": 160, "pitch": 50}
    samples, words = speak_with_times(text, language=language, **voice)
    recording, _, later = make_recording(
        text, language=language, generator=np.random.default_rng(0), variants=[variant]
    )
    for where, found in ((samples, words), (recording, later)):
        assert [word.word for word in found] == expected
        parts = sounding_parts(where)
        assert [word.start for word in found] == pytest.approx([start for start, _ in parts], abs=0.01)
        assert [word.end for word in found] == pytest.approx([end for _, end in parts], abs=0.025)
    np.testing.assert_array_equal(speak(text, language=language, **voice), samples)


@pytest.mark.parametrize(
    ("language", "text"), [("en", "turn on the office light in the hall"), ("zh", "三点关上餐厅的空调")]
)
def test_words_that_espeak_speaks_as_one_have_times(language, text):
    _, words = speak_with_times(text, language=language, **VOICE)
    assert [word.word for word in words] == (text.split() if language == "en" else list(text))
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and all(0.04 < word.end - word.start < 0.6 for word in words)


def test_a_text_whose_words_espeak_misplaces_has_no_times():
    samples, words = speak_with_times("one. sea. moon", language="en", **VOICE)
    assert len(samples) and not words
