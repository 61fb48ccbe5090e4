"""Items that are almost equal are found without comparing all pairs."""

import numpy as np

from hf_asr.data.acoustics import FINGERPRINT_BYTES
from hf_asr.data.duplicates import similar_recordings, similar_texts


def with_flipped_bits(fingerprint: np.ndarray, share: float, seed: int) -> np.ndarray:
    bits = np.unpackbits(fingerprint)
    bits[np.random.default_rng(seed).permutation(len(bits))[: round(share * len(bits))]] ^= 1
    return np.packbits(bits)


def test_recordings_with_few_different_bits_are_copies():
    prints = list(np.random.default_rng(0).integers(0, 256, size=(500, FINGERPRINT_BYTES), dtype=np.uint8))
    copies = {500 + place: i for place, i in enumerate(range(0, 500, 10))}
    prints += [with_flipped_bits(prints[i], 0.08, seed=i) for i in copies.values()]
    seconds = [1 + i / 100 for i in range(500)] + [1.01 * (1 + i / 100) for i in copies.values()]
    assert similar_recordings(prints, seconds) == copies
    seconds[500:] = [1.1 * each for each in seconds[500:]]
    assert similar_recordings(prints, seconds) == {}  # another duration
    far = [*prints[:500], with_flipped_bits(prints[0], 0.2, seed=0)]
    assert similar_recordings(far, [1.0] * 501) == {}


def test_all_copies_name_an_earlier_one_and_silent_recordings_have_none():
    fingerprint = np.arange(FINGERPRINT_BYTES, dtype=np.uint8)
    found = similar_recordings([None, fingerprint, None, fingerprint, fingerprint], [1.0] * 5)
    assert set(found) == {3, 4} and all(found[i] < i and found[i] in (1, 3) for i in found)
    assert similar_recordings([None, fingerprint], [1.0, 1.0]) == similar_recordings([], []) == {}


def test_texts_with_few_different_characters_are_found():
    words = [f"{a}{b}{c}" for a in "bdkr" for b in "aeiou" for c in ("n", "st", "mp", "lt")]
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, 12)) for _ in range(300)]
    near = [text[:-1] + "x" for text in texts[:50]]
    found = similar_texts([*texts, *near])
    assert found == {300 + i: i for i in range(50)}
    assert similar_texts(["", "a", "打开客厅的灯"]) == similar_texts([]) == {}
