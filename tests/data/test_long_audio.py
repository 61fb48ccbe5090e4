"""A recording that is read piece by piece is, one piece after another, the waveform that is read at once."""

import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import (
    AudioError,
    LongRecording,
    Recording,
    audio_duration,
    open_recording,
    read_or_open,
    read_recording,
)


def speech(seconds: float, *, rate: int = 16000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("part", [{}, {"start": 1.3, "end": 4.1}], ids=["whole", "part"])
def test_the_pieces_are_the_waveform(tmp_path, name, rate, channels, part):
    soundfile.write(tmp_path / name, speech(5.25, rate=rate, channels=channels), rate)
    expected = read_recording(tmp_path / name, **part)
    recording = open_recording(tmp_path / name, **part)
    for _ in range(2):  # it can be read again
        pieces = list(recording)
        assert np.array_equal(np.concatenate(pieces), expected.waveform)
        assert max(map(len, pieces)) < 2 * 16000
    assert recording.duration == pytest.approx(len(expected.waveform) / 16000, abs=1e-3)
    assert (recording.damage, recording.remarks) == (expected.damage, expected.remarks)


def test_defects_are_known_before_the_first_piece(tmp_path):
    stereo = speech(3, channels=2)
    stereo[:, 1] = -0.9 * stereo[:, 0]
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    cut = (tmp_path / "a.wav").read_bytes()[:-64000]
    expected, recording = read_recording(cut), open_recording(cut)
    assert recording.damage == expected.damage and "truncated" in recording.damage[0]
    assert recording.remarks == expected.remarks and "cancel" in recording.remarks[0]
    assert np.array_equal(np.concatenate(list(recording)), expected.waveform)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [(np.zeros((0, 1)), "0 samples"), (np.full((20000, 1), np.nan), "NaN")],
    ids=["empty", "NaN"],
)
def test_what_cannot_be_read_cannot_be_opened(tmp_path, waveform, message):
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=message):
        open_recording(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="channel 3 does not exist"):
        open_recording(tmp_path / "a.wav", channel=2)
    with pytest.raises(AudioError, match="not a valid part"):
        open_recording(tmp_path / "a.wav", start=3, end=2)


def test_only_a_longer_recording_is_opened(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(3), 16000)
    assert isinstance(read_or_open(tmp_path / "a.wav", max_seconds=3), Recording)
    assert isinstance(read_or_open(tmp_path / "a.wav", max_seconds=2.9), LongRecording)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_memory_does_not_grow_with_the_length(tmp_path, rate):
    peaks = []
    for seconds in (20, 200):
        with soundfile.SoundFile(tmp_path / f"{seconds}.wav", "w", rate, 2) as file:
            for _ in range(seconds):
                file.write(speech(1, rate=rate, channels=2))
        tracemalloc.start()
        assert sum(map(len, open_recording(tmp_path / f"{seconds}.wav"))) == pytest.approx(16000 * seconds, abs=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def large_file(path, kind: str, size: int, *, written: int) -> None:
    """Write a file of `size` bytes of samples at 48 kHz: silence, which takes no disk space, and a second of 0.5.

    Args:
        written: Number of bytes in the header.
    """
    soundfile.write(path, np.full((48000, 2), 0.5), 48000, format=kind, subtype="PCM_16")
    whole = path.read_bytes()
    header = bytearray(whole[:-192000])
    place, form, more = {"RF64": (28, "<Q", 0), "W64": (len(header) - 8, "<Q", 24)}.get(
        kind, (len(header) - 4, "<I", 0)
    )
    struct.pack_into(form, header, place, written + more)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size - 192000)
        file.seek(0, 2)
        file.write(whole[-192000:])


@pytest.mark.parametrize(
    ("kind", "size", "written"),
    [
        ("RF64", 5 * 2**30, 5 * 2**30),
        ("W64", 5 * 2**30, 5 * 2**30),
        ("WAV", 3 * 2**30, 3 * 2**30),
        ("WAV", 3 * 2**30, 0xFFFFFFFF),  # written to a pipe
        ("WAV", 3 * 2**30, 0x7FFFFFFF),
    ],
)
def test_the_end_of_a_file_of_gigabytes_is_read(tmp_path, kind, size, written):
    path = tmp_path / "large.wav"
    large_file(path, kind, size, written=written)
    seconds = size / 192000
    assert audio_duration(path) == pytest.approx(seconds, abs=0.01)
    recording = read_recording(path, start=seconds - 2, end=seconds)
    assert not recording.damage and np.abs(recording.waveform[:15000]).max() < 0.01
    assert recording.waveform[17000:31000].min() == pytest.approx(0.5, abs=0.01)


def test_a_length_that_the_header_cannot_hold_is_an_error(tmp_path):
    path = tmp_path / "large.wav"
    large_file(path, "WAV", 5 * 2**30, written=5 * 2**30 % 2**32)
    for function in (audio_duration, read_recording, open_recording):
        with pytest.raises(AudioError, match="cannot hold more than 4 GiB"):
            function(path)
