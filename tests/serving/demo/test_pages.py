import base64
import re

import numpy as np

from hf_asr.decoding.transcript import Transcript, Word
from hf_asr.serving.demo.pages import comparison_page, differing_words, result_page
from hf_asr.serving.demo.recognition import Recognition, transcribe_recording
from hf_asr.serving.demo.translations import CHINESE, ENGLISH

WORDS = [Word("fox", 0.5, 1.0, 0.987), Word("灯", 1.5, 1.6, 0.41)]


def test_differing_words_are_found_by_alignment():
    def words(text):
        return [Word(word, 0.0, 0.0) for word in text.split()]

    assert differing_words(words("a b c d"), words("a x c")) == ({1, 3}, {1})
    assert differing_words(words("a"), []) == ({0}, set())
    assert differing_words([], []) == (set(), set())


def test_subtitles_are_in_the_page_itself(recognizer):
    recognition = Recognition(Transcript("fox灯", WORDS), np.ones(32000, np.float32), 0.25)
    html = result_page(recognition, recognizer, name="my dog", texts=ENGLISH)
    assert "2.0 s of audio, recognised in 0.25 s" in html
    links = dict(re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', html))
    assert base64.b64decode(links["my dog.srt"]).decode().startswith("1\n00:00:00,500 --> 00:00:01,600\nfox灯")
    assert base64.b64decode(links["my dog.vtt"]).decode().startswith("WEBVTT")


def test_page_without_words_has_a_message_and_the_timeline(recognizer):
    recognition = Recognition(Transcript(""), np.ones(16000, np.float32), 0.1)
    html = result_page(recognition, recognizer, name="a", texts=CHINESE)
    assert CHINESE["no_words"] in html and "<svg" in html and "download" not in html


def test_comparison_page_has_both_results_and_frames_differences(recognizer):
    recognitions = [
        Recognition(Transcript("", [Word("a", 0, 1, 1.0), Word("b", 1, 2, 0.5)]), np.ones(16000), 0.5),
        Recognition(Transcript("", [Word("a", 0, 1, 1.0)]), np.ones(16000), 0.25),
    ]
    html = comparison_page([recognizer, recognizer], recognitions, texts=ENGLISH)
    assert html.count("asr-differs") == 1 and ENGLISH["different"] in html
    assert "mean confidence: 75.0 %" in html and "mean confidence: 100.0 %" in html
    assert "0.500 s, 2 times as fast" in html and "0.250 s, 4 times as fast" in html
    assert ENGLISH["same"] in comparison_page([recognizer, recognizer], recognitions[:1] * 2, texts=ENGLISH)


def test_damage_of_a_file_is_shown(recognizer, speech, tmp_path):
    (tmp_path / "cut.wav").write_bytes(speech.read_bytes()[:-16000])
    recognition = transcribe_recording(recognizer, str(tmp_path / "cut.wav"), use_denoise=False)
    assert recognition.notes[0].startswith("truncated")
    assert recognition.notes[0] in result_page(recognition, recognizer, name="a", texts=ENGLISH)
    assert recognition.notes[0] in comparison_page([recognizer] * 2, [recognition] * 2, texts=ENGLISH)
    assert not transcribe_recording(recognizer, str(speech), use_denoise=False).notes
