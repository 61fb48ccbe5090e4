"""Alignment equals torchaudio's, alone and in a batch, in a band and in full, and says what cannot be aligned."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from hf_asr.decoding import alignment
from hf_asr.decoding.alignment import Alignment, AlignmentError, align, check_alignable
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.families import ctc_frames

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchaudio


def random_case(seed: int, *, vocabulary: int = 6, blank: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Return random log-probabilities (frames, vocabulary), and a transcript that fits, often with repetitions."""
    generator = torch.Generator().manual_seed(seed)
    frames = int(torch.randint(1, 120, (), generator=generator))
    log_probs = (3 * torch.randn(frames, vocabulary, generator=generator)).log_softmax(-1)
    tokens = torch.randint(0, vocabulary, (frames,), generator=generator)
    tokens = tokens[tokens != blank].tolist() or [(blank + 1) % vocabulary]
    keep = int(torch.randint(1, len(tokens) + 1, (), generator=generator))
    while ctc_frames(tokens[:keep]) > frames:
        keep -= 1
    return log_probs, tokens[:keep]


def path_of(found: Alignment, *, blank: int = 0) -> list[int]:
    """Return the token of each frame."""
    path = [blank] * len(found.hypothesis.probabilities)
    for token, (start, end) in zip(found.hypothesis.tokens, found.hypothesis.frames, strict=True):
        path[start:end] = [token] * (end - start)
    return path


def spoken(
    tokens: int, *, pauses: dict[int, int] | None = None, vocabulary: int = 30, noise: float = 0.5
) -> tuple[torch.Tensor, list[int], list[int]]:
    """Return log-probabilities of a recording, its transcript, and the frame of each token, 3 frames apart.

    Args:
        pauses: Frames of blank before some tokens.
    """
    generator = torch.Generator().manual_seed(tokens)
    spelled = torch.randint(1, vocabulary, (tokens,), generator=generator).tolist()
    places = [place - 1 for place in itertools.accumulate(3 + (pauses or {}).get(i, 0) for i in range(tokens))]
    logits = noise * torch.randn(places[-1] + 3, vocabulary, generator=generator)
    logits[:, 0] += 6
    logits[places, spelled] += 12
    return logits.log_softmax(-1), spelled, places


def full(log_probs: torch.Tensor, tokens: list[int]) -> Alignment:
    return align([log_probs], [tokens], band=2 * len(tokens) + 513)[0]


@pytest.mark.parametrize("blank", [0, 5])
@pytest.mark.parametrize("seed", range(30))
def test_the_path_is_that_of_torchaudio(seed, blank):
    log_probs, tokens = random_case(seed, blank=blank)
    expected, scores = torchaudio.functional.forced_align(log_probs[None], torch.tensor([tokens]), blank=blank)
    (found,) = align([log_probs], [tokens], blank=blank)
    assert path_of(found, blank=blank) == expected[0].tolist()
    np.testing.assert_allclose(np.log(found.hypothesis.probabilities), scores[0].numpy(), atol=1e-4)
    assert found.hypothesis.score == pytest.approx(float(scores.sum()), abs=1e-4)
    assert found.hypothesis.tokens == tokens


@pytest.mark.parametrize("cells", [2**26, 2000], ids=["one batch", "several batches"])
def test_a_batch_of_ragged_recordings_is_each_recording_alone(cells, monkeypatch):
    monkeypatch.setattr(alignment, "CELLS", cells)
    cases = [random_case(seed) for seed in range(40)]
    together = align([log_probs for log_probs, _ in cases], [tokens for _, tokens in cases])
    for (log_probs, tokens), found in zip(cases, together, strict=True):
        (alone,) = align([log_probs], [tokens])
        assert found.hypothesis.frames == alone.hypothesis.frames
        np.testing.assert_array_equal(found.hypothesis.probabilities, alone.hypothesis.probabilities)
        assert (found.best_score, found.confidences) == (alone.best_score, alone.confidences)
    assert align([], []) == []


@pytest.mark.parametrize("pauses", [{}, {0: 900}, {700: 900}, {0: 300, 20: 300, 1400: 700}], ids=str)
def test_a_band_finds_the_path_of_all_states(pauses):
    log_probs, tokens, places = spoken(1500, pauses=pauses)
    banded = align([log_probs], [tokens], band=512)[0]
    assert banded.hypothesis.frames == full(log_probs, tokens).hypothesis.frames
    assert [start for start, _ in banded.hypothesis.frames] == places


@pytest.mark.parametrize("part", ["audio", "text"])
def test_a_band_that_the_path_comes_near_to_is_widened(part, monkeypatch):
    """400 tokens of the text are not in the audio, or the audio has words that are not in the text."""
    log_probs, tokens, places = spoken(1500)
    if part == "audio":
        log_probs = torch.cat([log_probs[: places[600]], log_probs[places[1000] :]])
    else:
        tokens = tokens[:600] + tokens[1000:]
    bands, viterbi = [], alignment._viterbi
    monkeypatch.setattr(
        alignment, "_viterbi", lambda *arguments, band: bands.append(band) or viterbi(*arguments, band=band)
    )
    banded = align([log_probs], [tokens], band=260)[0]
    assert bands == [260 * 2**i for i in range(len(bands))] and len(bands) > 1
    assert banded.hypothesis.frames == full(log_probs, tokens).hypothesis.frames


def test_only_a_recording_that_left_its_band_is_computed_again(monkeypatch):
    easy, hard = spoken(700), spoken(1500)
    cut = torch.cat([hard[0][: hard[2][600]], hard[0][hard[2][1000] :]])
    sizes, viterbi = [], alignment._viterbi
    monkeypatch.setattr(
        alignment,
        "_viterbi",
        lambda values, *rest, band: sizes.append(len(values)) or viterbi(values, *rest, band=band),
    )
    found = align([easy[0], cut], [easy[1], hard[1]], band=260)
    assert sizes[0] == 2 and set(sizes[1:]) == {1}
    assert [start for start, _ in found[0].hypothesis.frames] == easy[2]
    assert found[1].hypothesis.frames == full(cut, hard[1]).hypothesis.frames


def test_the_shortest_recording_that_fits_is_aligned():
    """Also in a band, which must move as fast as the path."""
    tokens = [1 + i % 2 for i in range(400)]
    log_probs = torch.randn(400, 3).log_softmax(-1)
    for band in (260, 4096):
        assert align([log_probs], [tokens], band=band)[0].hypothesis.frames == [(i, i + 1) for i in range(400)]
    tokens = [1] * 300  # with a blank between each two
    log_probs = torch.randn(599, 3).log_softmax(-1)
    for band in (260, 4096):
        assert align([log_probs], [tokens], band=band)[0].hypothesis.frames == [(2 * i, 2 * i + 1) for i in range(300)]


def test_a_long_recording_takes_a_quarter_of_a_byte_for_each_frame_and_state(monkeypatch):
    log_probs, tokens, places = spoken(6000, pauses={i: 40 for i in range(0, 6000, 60)})
    sizes, pointers = [], alignment._pointers

    def measured(*arguments):
        result = pointers(*arguments)
        sizes.append(result.nbytes)
        return result

    monkeypatch.setattr(alignment, "_pointers", measured)
    (found,) = align([log_probs.half()], [tokens], band=1024)
    assert [start for start, _ in found.hypothesis.frames] == places
    assert sum(sizes) <= (len(log_probs) + alignment.BLOCK) * 1024 / 4


def test_the_score_is_zero_for_the_text_that_is_recognised_and_lower_for_others():
    log_probs = random_case(3)[0]
    (recognised,) = GreedyDecoder(0).finish([_greedy_search(log_probs)])[0]
    found, other = align([log_probs] * 2, [recognised.tokens, [*recognised.tokens[:-1], recognised.tokens[-1] % 5 + 1]])
    assert found.hypothesis.frames == recognised.frames
    assert found.plausibility == 0 > other.plausibility
    assert other.plausibility == (other.hypothesis.score - other.best_score) / len(recognised.tokens)
    np.testing.assert_allclose(
        found.confidences[0], found.hypothesis.probabilities[slice(*found.hypothesis.frames[0])].mean()
    )


def _greedy_search(log_probs: torch.Tensor):
    decoder = GreedyDecoder(0)
    search = decoder.begin()
    decoder.advance([search], [decoder.keep(log_probs)])
    return search


def test_a_frame_in_which_a_token_is_impossible_has_a_finite_score():
    log_probs = torch.full((4, 3), -torch.inf)
    log_probs[:, 0] = 0.0
    (found,) = align([log_probs], [[1, 2]])
    assert np.isfinite(found.hypothesis.score) and len(found.hypothesis.frames) == 2


@pytest.mark.parametrize(
    ("tokens", "frames", "message"),
    [
        ([], 5, "the transcript is empty"),
        ([1, 2, 3], 2, "its 3 tokens need 3 frames, and the recording has 2"),
        ([1, 1, 1], 4, "its 3 tokens need 5 frames, and the recording has 4"),
        ([1], 0, "its 1 tokens need 1 frames, and the recording has 0"),
    ],
)
def test_a_transcript_that_cannot_be_aligned_is_an_error(tokens, frames, message):
    with pytest.raises(AlignmentError, match=message):
        align([torch.zeros(frames, 4)], [tokens])
    with pytest.raises(AlignmentError, match=message):
        check_alignable(tokens, frames)


def test_a_band_that_is_too_narrow_is_an_error():
    with pytest.raises(ValueError, match="band must be more than 256 states, not 256"):
        align([torch.zeros(5, 4)], [[1]], band=256)
