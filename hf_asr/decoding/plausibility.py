"""Score how plausible the transcripts of a dataset are, by forced alignment, and from which score on they are not."""

from collections.abc import Iterator, Sequence
from functools import partial

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.audio import LongRecording, Recording
from ..data.sources import row_recording
from ..families import required_samples
from .aligner import AlignedTranscript, align_recordings
from .bulk import recognize_all
from .recognizer import Audio, Recognizer
from .token_texts import unknown_characters

NUM_OTHERS = 200  # recordings that are also aligned with the transcript of another one
MIN_SEPARATION = 0.9  # of right and other transcripts; with a fifth of wrong ones, a perfect model has 0.9


def other_transcripts(texts: Sequence[str], *, seed: int = 0) -> list[tuple[int, str]]:
    """Return the numbers of at most `NUM_OTHERS` rows, and for each the transcript of another row."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(texts))[:NUM_OTHERS].tolist()
    others = [texts[i] for i in generator.integers(len(texts), size=len(chosen))]
    return [(i, other) for i, other in zip(chosen, others, strict=True) if other != texts[i]]


def score_transcripts(
    recognizer: Recognizer, rows: datasets.Dataset, items: Sequence[tuple[int, str]]
) -> Iterator[float | str]:
    """Yield for each number of a row and transcript how plausible it is, or the reason why it has no score.

    The score is `Alignment.plausibility`: 0 for a transcript that is recognised, less for others. A recording that is
    too short for the transcript is padded with silence. Characters that the vocabulary lacks are left out.
    """
    rate, tokenizer = recognizer.sampling_rate, recognizer.processor.tokenizer
    needed = partial(required_samples, config=recognizer.model.config)
    spelled = [(place, _spellable(text, tokenizer)) for place, text in items]

    def read(item: tuple[int, str], max_seconds: float) -> Recording | LongRecording:
        recording = row_recording(rows[item[0]], sampling_rate=rate, max_seconds=max_seconds, opens_longer=True)
        if isinstance(recording, Recording):
            lack = needed(tokenizer(item[1])["input_ids"]) - len(recording.waveform)
            recording.waveform = np.pad(recording.waveform, (0, max(0, lack)))
        return recording

    def align(items: list[tuple[int, str]], audio: list[Audio], *, show_progress: bool) -> list:
        return align_recordings(recognizer, audio, [text for _, text in items], show_progress=show_progress)

    for result in recognize_all(recognizer, spelled, read, transcribe=align):
        yield result.transcript.score if isinstance(result.transcript, AlignedTranscript) else result.error


def _spellable(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a transcript without the characters that the vocabulary lacks."""
    if tokenizer.unk_token_id not in tokenizer(text)["input_ids"]:
        return text
    unknown = unknown_characters(text, tokenizer)
    return "".join(each for each in tokenizer.normalize(text) if each not in unknown)


def implausible_limit(scores: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the score below which a transcript is implausible; None if the model cannot judge.

    It is the mean of the score that 90 % of the transcripts exceed, and the score that 5 % of the transcripts of other
    recordings exceed: a model that was trained on wrong transcripts gives these better scores than those of other
    recordings, but not as good ones as right transcripts. If the two overlap, because the model is weak or a tenth of
    the transcripts is wrong, it is the median score of the transcripts of other recordings.

    Args:
        scores: Of the transcripts.
        others: Of transcripts of other recordings.
    """
    if not len(scores) or not len(others) or separation(scores, others) < MIN_SEPARATION:
        return None
    right, wrong = float(np.quantile(scores, 0.1)), float(np.quantile(others, 0.95))
    return (right + wrong) / 2 if right > wrong else float(np.median(others))


def separation(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the probability that a transcript has a better score than that of another recording; 0.5 is chance."""
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, scores, side).mean() for side in ("left", "right"))
    return float(below + not_above) / 2 / len(ordered)
