import base64
import io
import re

import numpy as np
from PIL import Image

from hf_asr.decoding.transcript import Word
from hf_asr.serving.demo.word_timeline import PIXELS_PER_SECOND, legend, level, timeline, word_chips

WORDS = [Word("fox", 0.5, 1.0, 0.987), Word("灯", 1.5, 1.6, 0.41)]


def test_word_has_colour_and_number_of_its_confidence_and_a_tooltip():
    html = word_chips(WORDS, framed={1})
    assert 'class="asr-word asr-0" title="0.50-1.00 s, 99 %">fox<sub>99</sub>' in html
    assert 'class="asr-word asr-3 asr-differs" title="1.50-1.60 s, 41 %">灯<sub>41</sub>' in html


def test_colour_follows_the_rounded_percentage():
    assert [level(confidence) for confidence in (1.0, 0.946, 0.944, 0.8, 0.6, 0.594, 0.0)] == [0, 0, 1, 1, 2, 3, 3]
    assert re.findall(r">([≥<] \d+|&lt; \d+)<", legend("sure")) == ["≥ 95", "≥ 80", "≥ 60", "&lt; 60"]


def test_words_are_escaped():
    word = Word("<script>alert(1)</script>", 0.0, 0.5)
    for html in (word_chips([word]), timeline(np.zeros(16000), np.zeros((100, 80)), [word], sampling_rate=16000)):
        assert "<script" not in html and "&lt;script" in html


def test_labels_are_below_the_times_of_their_words():
    svg = timeline(np.ones(2 * 16000), np.zeros((200, 80)), WORDS, sampling_rate=16000)
    assert re.findall(r'class="asr-span" x="([\d.]+)%" width="([\d.]+)%"', svg) == [
        ("25.00", "25.00"),
        ("75.00", "5.00"),
    ]
    assert re.findall(r'<text x="([\d.]+)%" [^>]*>(\w+)</text>', svg) == [("37.50", "fox"), ("77.50", "灯")]
    assert f"min-width:{2 * PIXELS_PER_SECOND}px" in svg


def test_labels_do_not_overlap():
    words = [Word("seventeen", 0.1 * i, 0.1 * i + 0.1) for i in range(3)]
    svg = timeline(np.ones(16000), np.zeros((100, 80)), words, sampling_rate=16000)
    heights = re.findall(r'y="(\d+)" text-anchor="middle"', svg)
    assert len(set(heights)) == 3


def test_spectrogram_has_low_frequencies_at_the_bottom_and_time_to_the_right():
    features = np.zeros((50, 80))
    features[40:, :5] = 10.0  # low frequencies at the end
    svg = timeline(np.ones(8000), features, [], sampling_rate=16000)
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", svg)[1])
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=int)
    assert image.shape == (80, 50)
    assert image[-1, -1] > image[0, -1] and image[-1, -1] > image[-1, 0]
