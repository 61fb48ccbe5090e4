import hashlib

import numpy as np
import pytest

from hf_asr.data.espeak import (
    CLEAR_VARIANTS,
    SAMPLE_RATE,
    VOICE_VARIANTS,
    make_recording,
    speak,
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
