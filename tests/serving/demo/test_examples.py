import sys

import soundfile

from hf_asr.serving.demo.examples import make_examples


def test_examples_are_in_the_languages_of_the_vocabulary(processor, tmp_path):
    examples = make_examples(processor, tmp_path)  # this vocabulary has all English letters and few Han characters
    assert len(examples) == 2 and all(sentence.isascii() for _, sentence in examples)
    assert all(soundfile.info(file).duration > 1 for file, _ in examples)


def test_no_examples_without_espeak(processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert make_examples(processor, tmp_path) == []
