"""Find recordings that are almost equal, and texts that are, without comparing each one with all others.

Both are turned into keys of which similar items share at least one with great probability, and different items rarely
share any (locality-sensitive hashing). Only items with a common key are compared.
"""

import difflib
import zlib
from collections.abc import Sequence

import numpy as np

from .acoustics import FINGERPRINT_BYTES

AUDIO_BITS = 0.12  # greatest share of the bits of two fingerprints that differ
AUDIO_SECONDS = 1.03  # greatest ratio of the durations of two copies of a recording
TEXT_RATIO = 0.9  # smallest share of equal characters of two texts that are almost equal
GRAM = 3  # characters that are hashed together
HASHES, ROWS = 24, 3  # smallest hashes of a text, and how many of them make a key
NEIGHBOURS = 4  # items with the same key, in their order, that an item is compared with


def similar_recordings(fingerprints: Sequence[np.ndarray | None], seconds: Sequence[float]) -> dict[int, int]:
    """Return the number of an earlier recording that is almost equal, by the number of each recording that has one.

    Args:
        fingerprints: As `Acoustics.fingerprint`; None has no copy.
        seconds: As `Acoustics.fingerprint_seconds`.
    """
    places = np.array([i for i, each in enumerate(fingerprints) if each is not None], dtype=np.int64)
    if len(places) < 2:
        return {}
    prints = np.stack([fingerprints[i] for i in places])  # (N, bytes)
    lengths = np.array(seconds)[places]
    bits = np.unpackbits(prints, axis=1)[:, np.random.default_rng(0).permutation(8 * FINGERPRINT_BYTES)]
    keys = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16)  # (N, bits / 16)
    pairs: set[tuple[int, int]] = set()
    for column in keys.T:
        first, second = _neighbours(column, lengths)
        ratio = lengths[second] / np.maximum(lengths[first], 1e-3)  # at least 1
        differing = np.bitwise_count(prints[first] ^ prints[second]).sum(1)
        is_near = (ratio <= AUDIO_SECONDS) & (differing <= AUDIO_BITS * 8 * FINGERPRINT_BYTES)
        pairs |= set(zip(places[first[is_near]].tolist(), places[second[is_near]].tolist(), strict=True))
    return _earlier(pairs)


def similar_texts(texts: Sequence[str]) -> dict[int, int]:
    """Return the number of an earlier text that is almost equal, by the number of each text that has one.

    Args:
        texts: Different texts.
    """
    hashes = _smallest_hashes(texts)  # (N, HASHES)
    lengths = np.array([len(text) for text in texts])
    pairs: set[tuple[int, int]] = set()
    for start in range(0, HASHES, ROWS):
        keys = np.ascontiguousarray(hashes[:, start : start + ROWS]).view([("", hashes.dtype)] * ROWS)[:, 0]
        _, column = np.unique(keys, return_inverse=True)
        pairs |= set(zip(*(side.tolist() for side in _neighbours(column, lengths)), strict=True))
    return _earlier(pair for pair in pairs if _is_similar(*(texts[i] for i in pair)))


def _is_similar(text: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, text, other, autojunk=False)
    return matcher.real_quick_ratio() >= TEXT_RATIO and matcher.ratio() >= TEXT_RATIO


def _smallest_hashes(texts: Sequence[str]) -> np.ndarray:
    """Return the smallest of the hashes of a text's character n-grams, for `HASHES` hash functions (MinHash)."""
    factors = np.random.default_rng(0).integers(1, 2**31, size=(HASHES, 1), dtype=np.uint64) * 2 + 1
    found = np.empty((len(texts), HASHES), np.uint32)
    for i, text in enumerate(texts):
        grams = {text[place : place + GRAM] for place in range(max(1, len(text) - GRAM + 1))}
        codes = np.array([zlib.crc32(gram.encode(errors="replace")) for gram in grams], dtype=np.uint64)
        found[i] = ((codes * factors & 0xFFFFFFFF) >> 3).min(1)
    return found


def _neighbours(keys: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of places of equal keys (N,), the shorter item first; each is paired with a few of similar length.

    A key that many items share would give the square of their number.
    """
    order = np.lexsort((lengths, keys))
    pairs = []
    for step in range(1, NEIGHBOURS + 1):
        first, second = order[:-step], order[step:]
        is_equal = keys[first] == keys[second]
        pairs.append((first[is_equal], second[is_equal]))
    return tuple(np.concatenate(side) for side in zip(*pairs, strict=True))


def _earlier(pairs) -> dict[int, int]:
    """Return the smallest number that each number is paired with, if it is smaller."""
    found: dict[int, int] = {}
    for pair in pairs:
        first, second = sorted(pair)
        found[second] = min(first, found.get(second, first))
    return found
