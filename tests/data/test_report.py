from types import SimpleNamespace

from hf_asr import ConformerTokenizer
from hf_asr.data.report import changed_letters


def test_letters_changed_by_normalisation_are_counted():
    texts = ["Äpfel für Straße", "हिन्दी น้ำ が G̃ fi ﬁ 呃 ΣΑΣ İ ❤️", "für"]

    def changed(rule: str) -> dict[str, int]:
        return dict(changed_letters(ConformerTokenizer.from_texts(["a"], text_normalization=rule), texts))

    assert changed("zh-en") == {"Ä → a": 1, "ü → u": 2, "G̃ → g": 1}
    assert changed("basic") == changed("none") == changed("zh") == {}


def test_joiners_that_change_a_letter_are_counted():
    texts = ["അവന്\u200d হঠাত্\u200d סנדוויץ׳", "ශ්\u200dරී می\u200cخواهم ה\u200d צה״ל a׳"]
    careless = SimpleNamespace(normalize=lambda text: text.translate({0x200C: None, 0x200D: None, 0x5F3: None}))
    assert set(changed_letters(careless, texts)) == {
        "ന്\u200d → ന്",
        "ত্\u200d → ত্",
        "ශ්\u200d → ශ්",
        "ץ׳ → ץ",
    }
    for rule in ("none", "basic", "en", "zh-en"):
        assert changed_letters(ConformerTokenizer.from_texts(["a"], text_normalization=rule), texts) == {}
