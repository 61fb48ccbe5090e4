from hf_asr import ConformerTokenizer
from hf_asr.data.report import changed_letters


def test_letters_that_a_rule_changes_are_counted():
    texts = ["Äpfel für Straße", "हिन्दी น้ำ が G̃ fi ﬁ 呃 ΣΑΣ İ ❤️", "für"]

    def changed(rule: str) -> dict[str, int]:
        return dict(changed_letters(ConformerTokenizer.from_texts(["a"], text_normalization=rule), texts))

    assert changed("zh-en") == {"Ä → a": 1, "ü → u": 2, "G̃ → g": 1}
    assert changed("basic") == changed("none") == changed("zh") == {}
