"""Find where the training recordings can be cut, by aligning them with the model that is being trained."""

import itertools
import logging
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..data.audio import AudioError
from ..data.dataset import SpeechDataset
from ..data.espeak import phonemize
from ..data.sources import read_row
from ..data.splicing import NO_CUTS, words_of
from ..decoding.aligner import AlignedTranscript, align_recordings
from ..decoding.recognizer import Recognizer

logger = logging.getLogger("hf_asr")

MIN_SECONDS = 0.08  # of a word at a cut: the times of shorter ones are not certain
BLOCK_SECONDS = 0.01  # whose energy decides where between two words the cut is
ROWS = 64  # that are read and aligned together


class StartSplicing(TrainerCallback):
    """Align the training recordings at the beginning of an epoch, and splice examples of their words from then on.

    Args:
        trainer: A `ConformerTrainer` with `splicing`.
    """

    def __init__(self, trainer, updates_per_epoch: int):
        self.trainer, self.updates_per_epoch = trainer, updates_per_epoch

    def on_epoch_begin(self, args, state, control, **kwargs):
        splicing, left_at = self.trainer.splicing, self.trainer.plateau.left_at
        if splicing.cuts is not None or left_at is None:
            return
        # A run that is resumed in the middle of an epoch decides as at the beginning of the epoch.
        begin = state.global_step // self.updates_per_epoch * self.updates_per_epoch
        warm_start = self.trainer.warm_start  # on whose speech the plateau may be left before the first recording
        first = max(left_at, warm_start.arguments.steps if warm_start else 0)
        if begin >= first + splicing.arguments.after_steps:
            self.trainer.start_splicing()
            count = f"{splicing.num_sources} of {len(splicing.utterances)} recordings"
            logger.info(f"step {state.global_step}: examples are spliced from here on, of words from {count}")

    def on_train_end(self, args, state, control, **kwargs):
        splicing = self.trainer.splicing
        if splicing.cuts is None and state.is_world_process_zero:
            logger.warning(
                f"splicing has not started: no epoch ({self.updates_per_epoch} steps) began "
                f"{splicing.arguments.after_steps} steps after CTC's plateau was left; train longer, or lower "
                "after_steps"
            )


def find_cuts(
    recognizer: Recognizer, dataset: SpeechDataset, places: Sequence[int], *, show_progress: bool
) -> list[np.ndarray]:
    """Return the cuts of these rows, see `Cuts`; a recording that cannot be read or aligned has none.

    A row with phonemes has none either if its words have other phonemes alone than in their sentence.
    """
    tokenizer, rate = recognizer.processor.tokenizer, recognizer.sampling_rate
    words = [words_of(dataset.labels[place], tokenizer) for place in places]
    phonemes = _phoneme_counts({each["word"] for own in words for each in own}, dataset, recognizer)
    found: list[np.ndarray] = []
    progress = tqdm(total=len(places), desc="Aligning", unit="file", leave=False, disable=not show_progress)
    with progress, ThreadPoolExecutor() as pool:

        def read(first: int) -> Iterator[np.ndarray]:
            return pool.map(lambda place: _read(dataset.rows[place], rate), places[first : first + ROWS])

        ahead = read(0)
        for first in range(0, len(places), ROWS):
            waveforms, ahead = list(ahead), read(first + ROWS)
            texts = [dataset.rows[place]["text"] for place in places[first : first + ROWS]]
            aligned = align_recordings(recognizer, waveforms, texts)
            for i, (each, waveform) in enumerate(zip(aligned, waveforms, strict=True), start=first):
                counts = [phonemes[word["word"]] for word in words[i]]
                is_known = dataset.phonemes is None or sum(counts) == len(dataset.phonemes[places[i]])
                is_long = len(waveform) >= 2 * MIN_SECONDS * rate  # the recogniser pads shorter ones
                if isinstance(each, AlignedTranscript) and is_known and is_long:
                    times = [start * recognizer.seconds_per_frame for start, _ in each.hypothesis.frames]
                    found.append(_cuts(waveform, words[i], counts, times=times, sampling_rate=rate))
                else:
                    found.append(NO_CUTS)
            progress.update(len(waveforms))
    return found


def _phoneme_counts(words: Set[str], dataset: SpeechDataset, recognizer: Recognizer) -> dict[str, int]:
    """Return the number of phonemes of each word, 0 without phonemes."""
    if dataset.phonemes is None:
        return dict.fromkeys(words, 0)
    ordered, config = sorted(words), recognizer.model.config
    known = set(config.phonemes)
    spoken = phonemize(ordered, language=config.phoneme_language)
    return {word: sum(name in known for name in names) for word, names in zip(ordered, spoken, strict=True)}


def _read(row: dict, sampling_rate: int) -> np.ndarray:
    try:
        return read_row(row, sampling_rate=sampling_rate)
    except AudioError:
        return np.zeros(0, np.float32)  # reported when the row itself is read


def _cuts(
    waveform: np.ndarray, words: list[dict], counts: list[int], *, times: list[float], sampling_rate: int
) -> np.ndarray:
    """Return the cuts of a recording, int32 (cuts, 3), at the quietest places between its words.

    Args:
        counts: Number of phonemes of each word.
        times: When each token begins, in seconds.
    """
    block = round(BLOCK_SECONDS * sampling_rate)
    energies = np.square(waveform[: len(waveform) // block * block].reshape(-1, block)).mean(-1)
    energies = np.convolve(energies, np.ones(3), "same")
    cuts = [(0, 0, 0)]
    for (before, after), phonemes in zip(itertools.pairwise(words), itertools.accumulate(counts), strict=False):
        first, last = (round(times[i] / BLOCK_SECONDS) for i in (before["end_offset"] - 1, after["start_offset"]))
        first = min(first, len(energies) - 1)
        quietest = first + int(energies[first : max(last, first + 1)].argmin())
        cuts.append((quietest * block + block // 2, after["start_offset"], phonemes))
    cuts.append((len(waveform), len(times), sum(counts)))
    lengths = np.diff([sample for sample, *_ in cuts]) / sampling_rate
    are_long = np.minimum(lengths[:-1], lengths[1:]) >= MIN_SECONDS
    return np.array(cuts, np.int32)[[True, *are_long, True]]
