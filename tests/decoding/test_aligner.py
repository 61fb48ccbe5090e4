"""Transcripts get the times at which their tokens are emitted, and a reason where that is impossible."""

import math

import numpy as np
import pytest
import torch

from hf_asr import ConformerTokenizer
from hf_asr.data.audio import open_recording, read_audio
from hf_asr.decoding.aligner import AlignedTranscript, align_recordings, encode_text
from hf_asr.decoding.alignment import AlignmentError
from hf_asr.decoding.recognizer import Recognizer

FRAME = 0.04  # seconds
SAMPLES = 640  # of a frame


@pytest.fixture
def spells(tiny_model, processor, monkeypatch) -> Recognizer:
    """A recogniser that emits the tokens of `the fox` every 4 frames from frame 5 on, whatever the audio is."""

    def log_probs(self, windows):
        tokens = self.processor.tokenizer("the fox")["input_ids"]
        logits = torch.zeros(25, len(self.processor.tokenizer))
        logits[:, 0] = 8
        logits[range(5, 5 + 2 * len(tokens), 2), tokens] = 16
        return [logits.log_softmax(-1) for _ in windows]

    monkeypatch.setattr(Recognizer, "log_probs", log_probs)
    return Recognizer(tiny_model, processor)


SECOND = np.zeros(25 * SAMPLES, np.float32)


def test_words_and_tokens_have_times_and_confidences(spells):
    (found,) = align_recordings(spells, [SECOND], ["The FOX!"])
    assert isinstance(found, AlignedTranscript) and found.text == "the fox" and found.score == 0
    # Tokens are emitted in the frames 5, 7, 9 (the), 11 (a space), 13, 15, 17 (fox). Words begin up to 0.1 s earlier,
    # and end up to 0.04 s later. Two words share the time between them in this proportion.
    between = round((10 + 3 * 0.04 / 0.14) * FRAME, 3)
    assert [(word.word, word.start, word.end) for word in found.words] == [
        ("the", 0.1, between),
        ("fox", between, 0.76),
    ]
    assert [token.word for token in found.tokens] == ["t", "h", "e", "▁", "f", "o", "x"]
    assert all(a.end == b.start for a, b in zip(found.tokens, found.tokens[1:], strict=False))
    assert found.tokens[0].start == 0.1 and found.tokens[-1].end == 0.76
    assert all(0.9 < each.confidence <= 1 for each in (*found.tokens, *found.words))


def test_a_wrong_transcript_has_a_lower_score(spells):
    texts = ["the fox", "the box", "the quick brown fox", "lazy dog"]
    right, one, more, wrong = (found.score for found in align_recordings(spells, [SECOND] * 4, texts))
    assert right == 0 > one > wrong and one > more > wrong


def test_each_recording_that_cannot_be_aligned_has_its_reason(spells):
    texts = ["the fox", "…", "", "the ßж fox", "the quick brown fox jumps over the lazy dog", "the fox"]
    found = align_recordings(spells, [SECOND] * len(texts), texts)
    assert [type(each) for each in found] == [AlignedTranscript, *[AlignmentError] * 4, AlignedTranscript]
    assert [str(each) for each in found[1:5]] == [
        "the transcript has no words after normalisation: '…'",
        "the transcript has no words after normalisation: ''",
        "the vocabulary cannot spell 'ß', 'ж'",
        "the transcript is longer than the recording allows: its 43 tokens need 43 frames, and the recording has 25",
    ]


@pytest.mark.parametrize(("frames", "fits"), [(0.2, False), (6, False), (6.1, True), (7, True)])
def test_silence_that_is_added_to_a_short_recording_does_not_count(spells, frames, fits):
    (found,) = align_recordings(spells, [SECOND[: round(frames * SAMPLES)]], ["the fox"])  # needs 7 frames
    assert isinstance(found, AlignedTranscript) == fits
    if not fits:
        assert str(found).endswith(f"need 7 frames, and the recording has {math.ceil(frames)}")


def test_a_digit_inside_a_word_is_named():
    tokenizer = ConformerTokenizer.from_texts(["m p three"], kind="char", text_normalization="en")
    with pytest.raises(AlignmentError, match="the vocabulary cannot spell '3'$"):
        encode_text("the mp3", tokenizer)
    assert encode_text("3", tokenizer) == encode_text("three", tokenizer)


def test_a_text_is_encoded_as_in_training(processor):
    tokenizer = processor.tokenizer
    assert encode_text("The\nquick\tfox", tokenizer) == tokenizer("the quick fox")["input_ids"]


def test_a_recording_that_is_read_as_it_is_encoded_has_the_same_words(streaming_recognizer, recording):
    """Its log-probabilities are kept in half precision."""
    text = "turn on the lazy fox"
    (whole,) = align_recordings(streaming_recognizer, [read_audio(recording)], [text])
    (pieces,) = align_recordings(streaming_recognizer, [open_recording(recording)], [text])
    assert [word.word for word in pieces.words] == text.split() == [word.word for word in whole.words]
    assert pieces.score == pytest.approx(whole.score, abs=0.02)
    assert pieces.hypothesis.frames == whole.hypothesis.frames
    assert len(pieces.hypothesis.probabilities) == len(whole.hypothesis.probabilities)


def test_a_path_is_aligned_as_its_waveform(streaming_recognizer, recording):
    found = align_recordings(streaming_recognizer, [recording, read_audio(recording)], ["the lazy fox"] * 2)
    assert found[0].words == found[1].words


def test_every_recording_needs_its_text(streaming_recognizer):
    with pytest.raises(ValueError, match="one text for each recording, not 1 for 2"):
        align_recordings(streaming_recognizer, [SECOND, SECOND], ["the fox"])
    for recordings, texts in ((SECOND, ["the fox"]), ([SECOND], "the fox")):
        with pytest.raises(TypeError, match=r"must be lists: give \[recording\] and \[text\]"):
            align_recordings(streaming_recognizer, recordings, texts)


def test_recordings_together_are_each_recording_alone(streaming_recognizer, recording):
    waveform = read_audio(recording)
    audio, texts = [waveform, waveform[:20000], waveform[10000:]], ["the lazy fox", "brown dog", "jumps over"]
    together = align_recordings(streaming_recognizer, audio, texts)
    for found, each, text in zip(together, audio, texts, strict=True):
        (alone,) = align_recordings(streaming_recognizer, [each], [text])
        assert (found.words, found.tokens) == (alone.words, alone.tokens)
        assert found.score == pytest.approx(alone.score, abs=1e-3)
