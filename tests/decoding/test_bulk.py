"""A bounded number of seconds is in memory, for any number and length of recordings."""

import threading
import weakref

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError, LongRecording, Recording, open_recording
from hf_asr.data.timeline import Notes
from hf_asr.decoding import bulk
from hf_asr.decoding.bulk import recognize_all
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.transcript import Transcript

RATE = 16000


class Shelf:
    """Recordings of given seconds; counts the greatest number of seconds in memory at the same time."""

    def __init__(self, lengths: list[int]):
        self.lengths, self.alive, self.most, self.lock = lengths, 0, 0, threading.RLock()

    def read(self, place: int, max_seconds: float) -> Recording | LongRecording:
        seconds = self.lengths[place]
        if seconds == 0:
            raise AudioError("file is empty (0 bytes)")
        if seconds > max_seconds:
            return LongRecording(lambda: iter([]), duration=seconds, sampling_rate=place, notes=Notes())
        waveform = np.broadcast_to(np.float32(place), seconds * RATE)  # takes no memory here
        with self.lock:
            self.alive += seconds
            self.most = max(self.most, self.alive)
        weakref.finalize(waveform, self.forget, seconds)
        return Recording(waveform, [], [])

    def forget(self, seconds: int) -> None:
        with self.lock:
            self.alive -= seconds


@pytest.fixture
def numbered(monkeypatch):
    """Make recognisers return the number of the recording as its text."""

    def transcribe(recognizer, recordings, *, show_progress):
        numbers = [each.sampling_rate if isinstance(each, LongRecording) else each[0] for each in recordings]
        return [Transcript(f"{number:.0f}") for number in numbers]

    monkeypatch.setattr(Recognizer, "transcribe", transcribe)


@pytest.mark.parametrize(
    "lengths",
    [[60] * 300, [7200] * 6, [5, 7200, 5, 0, 200, 7200] * 5, [110] * 100],
    ids=["many", "hours", "mixed", "almost too long"],
)
def test_the_seconds_in_memory_are_bounded(numbered, tiny_model, processor, lengths):
    shelf = Shelf(lengths)
    results = [result for result in recognize_all(Recognizer(tiny_model, processor), range(len(lengths)), shelf.read)]
    spoken = [result.transcript and result.transcript.text for result in results]
    assert spoken == [str(place) if seconds else None for place, seconds in enumerate(lengths)]
    assert [result.duration for result in results] == lengths
    assert shelf.most <= bulk.GROUP_SECONDS + (bulk.READ_AHEAD + 1) * bulk.LONG_SECONDS
    assert shelf.alive == 0


def test_recordings_are_read_only_when_results_are_needed(numbered, tiny_model, processor):
    asked = []

    def read(place: int, max_seconds: float) -> Recording:
        asked.append(place)
        return Recording(np.zeros(100 * RATE, np.float32), [], [])

    results = recognize_all(Recognizer(tiny_model, processor), range(1000), read)
    assert not asked
    next(results)
    results.close()
    assert len(asked) <= bulk.GROUP_SECONDS / 100 + bulk.READ_AHEAD + 1


def test_an_unreadable_recording_has_an_error_and_the_others_have_texts(tiny_model, processor):
    waveforms = [np.random.default_rng(i).normal(0, 0.1, 16000 + 800 * i).astype(np.float32) for i in range(3)]

    def read(place: int, max_seconds: float) -> Recording:
        if place == 1:
            raise AudioError("file not found")
        return Recording(waveforms[place], ["truncated"] * (place == 2), ["loud"] * (place == 0))

    first, second, third = recognize_all(Recognizer(tiny_model, processor), range(3), read)
    assert [first.transcript, third.transcript] == Recognizer(tiny_model, processor).transcribe(
        [waveforms[0], waveforms[2]]
    )
    assert (second.transcript, second.error, second.duration) == (None, "file not found", 0.0)
    assert (first.remarks, third.damage, first.error) == (["loud"], ["truncated"], None)
    assert first.computing_seconds > 0 and first.duration == 1.0


def test_a_file_that_vanishes_before_its_second_reading_has_an_error(tiny_model, processor, tmp_path):
    soundfile.write(tmp_path / "1.wav", np.zeros(RATE, np.float32), RATE)

    def read(place: int, max_seconds: float) -> Recording | LongRecording:
        if place == 1:
            recording = open_recording(tmp_path / "1.wav")
            (tmp_path / "1.wav").unlink()
            return recording
        return Recording(np.zeros(RATE, np.float32), [], [])

    results = list(recognize_all(Recognizer(tiny_model, processor), range(3), read))
    assert [result.error and result.error.partition(":")[0] for result in results] == [
        None,
        "cannot be read any more",
        None,
    ]


def test_another_function_makes_the_transcripts_or_gives_the_reason_why_there_is_none(tiny_model, processor):
    """As alignment does, which needs the items: the recording's text belongs to the item."""

    def read(item: str, max_seconds: float) -> Recording:
        if item == "lost":
            raise AudioError("file not found")
        return Recording(np.zeros(RATE, np.float32), [], [])

    def transcribe(items: list[str], audio: list, *, show_progress: bool) -> list[Transcript | ValueError]:
        assert len(items) == len(audio)
        return [Transcript(item) if item else ValueError("empty") for item in items]

    results = recognize_all(Recognizer(tiny_model, processor), ["a", "lost", "", "b"], read, transcribe=transcribe)
    found = [(result.transcript and result.transcript.text, result.error) for result in results]
    assert found == [("a", None), (None, "file not found"), (None, "empty"), ("b", None)]
