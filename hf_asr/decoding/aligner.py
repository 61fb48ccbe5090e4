"""Align the transcripts of recordings with a checkpoint: words and tokens with times, and a score of the transcript."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.audio import LongRecording
from .alignment import Alignment, AlignmentError, align, check_alignable
from .recognizer import BATCH_SECONDS, Audio, Recognizer
from .token_texts import unknown_characters
from .transcript import Transcript, Word, to_transcript, widened_spans
from .windows import batches

# Seconds before and after the frames of a word or a token. Of synthetic speech, the ends are nearer to the truth with
# one frame of 40 ms than with the 0.1 s of a recognised word.
WIDENING = (0.1, 0.04)


@dataclass
class AlignedTranscript(Transcript):
    """A transcript at its times.

    Attributes:
        tokens: The vocabulary's tokens with their times in seconds and confidences.
        score: How plausible the transcript is, see `Alignment.plausibility`; 0 is a transcript that is recognised.
    """

    tokens: list[Word] = field(default_factory=list)
    score: float = 0.0


def align_recordings(
    recognizer: Recognizer,
    recordings: Sequence[Audio],
    texts: Sequence[str],
    *,
    show_progress: bool = False,
) -> list[AlignedTranscript | AlignmentError]:
    """Return the aligned transcript of each recording, or the reason why it has none.

    Log-probabilities are kept only of the tokens of the transcripts, so an hour has some 100 MB of them.

    Args:
        recordings: As for `Recognizer.transcribe`: paths, waveforms (samples,) at the recogniser's rate, and recordings
            that are read as they are encoded.
        texts: Their transcripts, not normalised.
        show_progress: Show the progress in recordings that are read as they are encoded.

    Raises:
        AudioError: A file cannot be read.
        TypeError: A recording is something else, or one recording or one text is given and not a list.
        ValueError: There are not as many texts as recordings, or as for `Recognizer.transcribe`.
    """
    if isinstance(recordings, Audio) or isinstance(texts, str):
        raise TypeError("recordings and texts must be lists: give [recording] and [text] for one")
    if len(recordings) != len(texts):
        raise ValueError(f"there must be one text for each recording, not {len(texts)} for {len(recordings)}")
    recordings = recognizer.opened(recordings)
    tokenizer = recognizer.processor.tokenizer
    results: list[AlignedTranscript | AlignmentError] = [AlignmentError()] * len(texts)
    targets: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
        try:
            targets[i] = encode_text(text, tokenizer)
        except AlignmentError as error:
            results[i] = error
    kept = [tokenizer.pad_token_id, *sorted(set(itertools.chain(*targets.values())))]
    audio = [recordings[i] for i in targets]
    encoded = _kept_log_probs(recognizer, audio, torch.tensor(kept), show_progress=show_progress)
    log_probs = dict(zip(targets, encoded, strict=True))
    for i, values in log_probs.items():
        try:
            check_alignable(targets[i], min(len(values), _own_frames(recognizer, recordings[i])))
        except AlignmentError as error:
            results[i] = error
            del targets[i]
    column = {token: i for i, token in enumerate(kept)}
    columns = [[column[token] for token in tokens] for tokens in targets.values()]
    for i, alignment in zip(targets, align([log_probs[i] for i in targets], columns), strict=True):
        alignment.hypothesis.tokens = targets[i]
        results[i] = _transcript(recognizer, alignment, duration=_seconds(recordings[i], recognizer.sampling_rate))
    return results


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of a transcript.

    Raises:
        AlignmentError: The transcript is empty after normalisation, or the vocabulary cannot spell it.
    """
    tokens = tokenizer(text)["input_ids"]
    if not tokens:
        raise AlignmentError(f"the transcript has no words after normalisation: {text[:80]!r}")
    if tokenizer.unk_token_id in tokens:
        unknown = sorted(unknown_characters(text, tokenizer))
        raise AlignmentError(f"the vocabulary cannot spell {', '.join(map(repr, unknown[:20])) or 'the transcript'}")
    return tokens


def _kept_log_probs(
    recognizer: Recognizer,
    recordings: Sequence[np.ndarray | LongRecording],
    kept: torch.Tensor,
    *,
    show_progress: bool,
) -> list[torch.Tensor]:
    """Return the log-probabilities of the tokens `kept` in each recording, (frames, kept + 1).

    The last column is the largest log-probability of the whole vocabulary, which the scores need.
    """

    def keep(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values[:, kept.to(values.device)], values.amax(-1, keepdim=True)], -1)

    split = [recognizer.split(each) if isinstance(each, np.ndarray) else [] for each in recordings]
    windows = list(itertools.chain(*split))
    parts: dict[int, torch.Tensor] = {}
    for batch in batches(windows, batch_seconds=BATCH_SECONDS, sampling_rate=recognizer.sampling_rate):
        encoded = recognizer.log_probs([windows[i] for i in batch])
        parts |= {i: keep(values) for i, values in zip(batch, encoded, strict=True)}
    ordered = (parts[i] for i in range(len(windows)))
    log_probs = []
    for recording, own in zip(recordings, split, strict=True):
        if isinstance(recording, np.ndarray):
            log_probs.append(torch.cat([next(ordered) for _ in own]))
            continue
        pieces, total = [], round(recording.duration)
        with tqdm(total=total, desc="Encoding", unit="s", disable=not show_progress, leave=False) as progress:
            for encoded in itertools.chain.from_iterable(recognizer.encode_as_read(recording)):
                pieces.append(keep(encoded.log_probs).half())  # an hour has 90 000 frames
                seconds = round(len(encoded.log_probs) * recognizer.seconds_per_frame)
                progress.update(min(seconds, total - progress.n))
        log_probs.append(torch.cat(pieces))
    return log_probs


def _own_frames(recognizer: Recognizer, recording: np.ndarray | LongRecording) -> int:
    """Return the greatest number of frames that a recording has without the silence that is added to short ones."""
    seconds = _seconds(recording, recognizer.sampling_rate)
    return math.ceil(round(seconds / recognizer.seconds_per_frame, 6))


def _seconds(recording: np.ndarray | LongRecording, sampling_rate: int) -> float:
    return recording.duration if isinstance(recording, LongRecording) else len(recording) / sampling_rate


def _transcript(recognizer: Recognizer, alignment: Alignment, *, duration: float) -> AlignedTranscript:
    """Return words and tokens of an alignment with their times in seconds."""
    tokenizer, hypothesis = recognizer.processor.tokenizer, alignment.hypothesis
    options = {"seconds_per_frame": recognizer.seconds_per_frame, "duration": duration, "widening": WIDENING}
    found = to_transcript(hypothesis, tokenizer, **options)
    names = tokenizer.convert_ids_to_tokens(hypothesis.tokens)
    spans = widened_spans(hypothesis.frames, recognizer.seconds_per_frame, widening=WIDENING)
    tokens = []
    for name, span, confidence in zip(names, spans, alignment.confidences, strict=True):
        start, end = (round(min(max(0.0, seconds), duration), 3) for seconds in span)
        tokens.append(Word(name, start, end, confidence=round(confidence, 3)))
    return AlignedTranscript(found.text, found.words, hypothesis, tokens, round(alignment.plausibility, 4))
