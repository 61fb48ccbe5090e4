import re
from types import SimpleNamespace

import pytest

from hf_asr.serving.demo.translations import CHINESE, ENGLISH, language_texts


def test_both_languages_have_the_same_texts_and_values():
    assert ENGLISH.keys() == CHINESE.keys()
    for key, text in ENGLISH.items():
        assert re.findall(r"{.*?}", text) == re.findall(r"{.*?}", CHINESE[key]), key


@pytest.mark.parametrize(
    ("accepted", "texts"), [("zh-CN,zh;q=0.9,en;q=0.8", CHINESE), ("zh-TW", CHINESE), ("de,en", ENGLISH), ("", ENGLISH)]
)
def test_language_is_that_of_the_browser(accepted, texts):
    assert language_texts(SimpleNamespace(headers={"accept-language": accepted})) is texts
