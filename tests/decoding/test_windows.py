import numpy as np
import pytest

from hf_asr.decoding.windows import Window, batches, split_windows

RATE = {"sampling_rate": 16000, "samples_per_frame": 640}


@pytest.mark.parametrize("seconds", [0.0, 0.3, 7.99, 8.0, 8.01, 30.0, 61.3])
def test_the_used_parts_of_windows_are_the_whole_recording(seconds):
    waveform = np.arange(round(16000 * seconds), dtype=np.float32)
    windows = list(split_windows([waveform], chunk_seconds=8, stride_seconds=1, **RATE))
    used = [window.waveform[640 * window.left : len(window.waveform) - 640 * window.right] for window in windows]
    assert np.array_equal(np.concatenate(used), waveform)
    assert max(len(window.waveform) for window in windows) <= 8 * 16000


@pytest.mark.parametrize("size", [1000, 16000, 128_000, 300_000])
def test_windows_do_not_depend_on_the_pieces_in_which_a_recording_is_read(size):
    waveform = np.arange(16000 * 61, dtype=np.float32)
    options = {"chunk_seconds": 8, "stride_seconds": 1, **RATE}
    pieces = (waveform[first : first + size] for first in range(0, len(waveform), size))
    for window, expected in zip(split_windows(pieces, **options), split_windows([waveform], **options), strict=True):
        assert np.array_equal(window.waveform, expected.waveform)
        assert (window.left, window.right) == (expected.left, expected.right)


def test_windows_have_context_except_at_the_ends_of_the_recording():
    windows = list(split_windows([np.zeros(16000 * 30, np.float32)], chunk_seconds=8, stride_seconds=1, **RATE))
    assert [window.left for window in windows] == [0, *[25] * (len(windows) - 1)]
    assert [window.right for window in windows] == [*[25] * (len(windows) - 1), 0]


def test_batches_hold_every_window_once_and_at_most_their_seconds():
    lengths = [3, 9, 1, 9, 2, 30, 4]
    windows = [Window(np.zeros(16000 * seconds, np.float32)) for seconds in lengths]
    found = list(batches(windows, batch_seconds=20, sampling_rate=16000))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 20
