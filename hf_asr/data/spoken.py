"""Speak one's own sentences with espeak-ng: transcripts of the training set, and texts without recordings.

The speech is cached in Hugging Face's cache folder (`HF_HOME`) as an audio folder, under a hash of everything that it
depends on. Each rendition of a sentence depends only on the seed, the sentence and the number of the rendition.
"""

import hashlib
import importlib.metadata
import json
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock
from tqdm.auto import tqdm

from ..model.tokenization_conformer import normalize_text
from .encodings import EncodingError, read_lines
from .espeak import CLEAR_VARIANTS, UnspeakableError, make_recording, voice_name, write_recording
from .inspection import Finding
from .languages import LETTERS, count_letters, find_language
from .sources import Source

logger = logging.getLogger("hf_asr")

SPEECH_VERSION = 2  # increase it when the speech of a sentence changes, so that an old cache is not used
SPLIT = "synthetic speech"  # the name of these rows in the reports
RATES_WPM, PITCHES = (130, 231), (20, 81)  # see `espeak.speak`; wider than in the synthetic corpus
# Speech of espeak-ng is clean and always the same: other rooms, microphones, telephones, noises and vocal tracts.
DEFAULT_AUGMENTATIONS = [
    {"name": "SpeedPerturbation", "factors": [0.9, 1.0, 1.1]},
    {"name": "SevenBandParametricEQ", "min_gain_db": -9.0, "max_gain_db": 9.0, "p": 0.5},
    {"name": "LowPassFilter", "min_cutoff_freq": 2500.0, "max_cutoff_freq": 7500.0, "p": 0.2},
    {"name": "AddGaussianSNR", "min_snr_db": 8.0, "max_snr_db": 40.0, "p": 0.5},
    {"name": "Codec", "codecs": ["mulaw", "mp3", "opus"], "p": 0.2},
    {"name": "Gain", "min_gain_db": -18.0, "max_gain_db": 6.0, "p": 0.5},
]


@dataclass
class WarmStartArguments:
    """Configure training on synthetic speech of one's own sentences.

    Args:
        language: Code of espeak-ng's voice, such as `de` or `hi`. None: `zh` or `en` if the sentences show it.
        texts: File with a sentence in each line, or several files.
        transcripts: Speak the transcripts of the training set.
        voices: Number of renditions of each sentence, each in another voice and with another rate and pitch.
        steps: Number of optimiser steps at the beginning that use synthetic speech only.
        share: Share of the batches after `steps` that are synthetic.
        fade_steps: Number of optimiser steps after `steps` in which the share falls linearly to zero; 0 keeps it.
        augmentations: As the training argument of this name. None: `DEFAULT_AUGMENTATIONS`.

    Raises:
        ValueError: A value is out of its range, or no sentence would be spoken, or none trained on.
    """

    language: str | None = None
    texts: str | list[str] | None = None
    transcripts: bool = True
    voices: int = 6
    steps: int = 0
    share: float = 0.0
    fade_steps: int = 0
    augmentations: list | None = None
    seed: int = 0

    def __post_init__(self):
        self.texts = [self.texts] if isinstance(self.texts, str) else self.texts or []
        if not isinstance(self.texts, list) or not all(isinstance(name, str) for name in self.texts):
            raise ValueError(f"warm_start: texts must be a file or a list of files, not {self.texts!r}")
        if not isinstance(self.language, str | None):  # YAML reads `no` as false
            raise ValueError(f"warm_start: language must be a code such as de or 'no', not {self.language!r}")
        if not isinstance(self.augmentations, list | None):
            raise ValueError(f"warm_start: augmentations must be a list, as [{{name: Gain}}], not {self.augmentations}")
        if not self.transcripts and not self.texts:
            raise ValueError("warm_start: there is nothing to speak: give texts, or set transcripts to true")
        if self.voices < 1 or min(self.steps, self.fade_steps) < 0 or not 0 <= self.share <= 1:
            raise ValueError(
                "warm_start: voices must be 1 or more, steps and fade_steps 0 or more, and share between 0 and 1, not "
                f"{self.voices}, {self.steps}, {self.fade_steps} and {self.share:g}"
            )
        if not self.steps and not self.share:
            raise ValueError("warm_start: set steps or share, or the synthetic speech is never trained on")
        if self.share == 1 and not self.fade_steps:
            raise ValueError("warm_start: with share 1 no recording is trained on: set fade_steps, or a lower share")
        if self.augmentations is None:
            self.augmentations = DEFAULT_AUGMENTATIONS


@dataclass
class Spoken:
    """Sentences and their synthetic speech.

    Attributes:
        rows: Rows of a source, with the columns `speaker`, `language` and `duration`.
        voice: Name of espeak-ng's voice, such as "en-us".
        texts: Lines of the text files among the sentences, which a new vocabulary has to cover.
        findings: Sentences that espeak-ng cannot speak.
    """

    rows: datasets.Dataset
    voice: str
    texts: list[str]
    findings: list[Finding]


def speak_sentences(arguments: WarmStartArguments, *, transcripts: Sequence[str], validation: Sequence[str]) -> Spoken:
    """Speak transcripts and texts, or load their speech from the cache.

    Args:
        transcripts: Transcripts of the training set.
        validation: Transcripts that are scored; lines of the text files that equal one of them are left out.

    Raises:
        ValueError: A file cannot be read, the language is unknown, or no sentence can be spoken.
        ImportError: `espeakng-loader` is not installed.
    """
    texts = _without(validation, read_texts(arguments.texts))
    spoken_transcripts = transcripts if arguments.transcripts else []
    sentences = list(dict.fromkeys(text for text in [*spoken_transcripts, *texts] if text.strip()))
    language = arguments.language or choose_language(sentences)
    folder = cached_speech(sentences, language=language, voices=arguments.voices, seed=arguments.seed)
    rows = Source(str(folder), audio_column_name="file_name").load("train")
    spoken, voice = set(rows["text"]), voice_name(language)
    findings = [
        Finding(SPLIT, place, _digest(sentence), "not spoken", repr(sentence))
        for place, sentence in enumerate(sentences)
        if sentence not in spoken
    ]
    hours = sum(rows["duration"]) / 3600
    logger.info(f"warm_start: {len(spoken)} sentences, {len(rows)} utterances, {hours:.2f} hours ({voice})")
    return Spoken(rows, voice, texts, findings)


def read_texts(names: Sequence[str]) -> list[str]:
    """Return the lines of text files, without empty lines and surrounding spaces.

    Raises:
        ValueError: A file cannot be read or is not UTF-8.
    """
    lines = []
    for name in names:
        try:
            lines += read_lines(Path(name).expanduser())
        except EncodingError as error:
            raise ValueError(f"warm_start: texts {name} {error}") from error
        except OSError as error:
            raise ValueError(f"warm_start: texts {name} cannot be read: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip()]


def _without(validation: Sequence[str], texts: list[str]) -> list[str]:
    """Return the texts that are not validation transcripts in another case or punctuation."""
    if not texts:
        return []
    scored = {normalize_text(text, rule="basic") for text in validation}
    kept = [text for text in texts if normalize_text(text, rule="basic") not in scored]
    if len(kept) < len(texts):
        logger.info(
            f"warm_start: {len(texts) - len(kept)} lines of texts are left out: they are validation transcripts"
        )
    return kept


def choose_language(sentences: Sequence[str]) -> str:
    """Return the language of the sentences; raise ValueError if `find_language` does not know it."""
    chosen = find_language(sentences)
    if chosen is None:
        others = " ".join(sorted(set(count_letters(sentences)) - set(LETTERS))[:10]) or "few frequent English words"
        raise ValueError(f"warm_start: give the language of the sentences, such as de or hi: they contain {others}")
    logger.info(f"warm_start: the language {chosen} is chosen from the sentences")
    return chosen


def cached_speech(sentences: Sequence[str], *, language: str, voices: int, seed: int) -> Path:
    """Return the audio folder with the speech of different sentences; it is spoken if the cache does not contain it.

    Its only split is `train`. The speech of each sentence is independent of the other sentences. Speaking that was
    interrupted continues where it stopped.

    Args:
        voices: Number of renditions of each sentence.

    Raises:
        ValueError: The language is unknown, or no sentence can be spoken.
    """
    digest = hashlib.blake2b(digest_size=16)
    versions = [importlib.metadata.version(name) for name in ("espeakng-loader", "soxr")]
    parts = (SPEECH_VERSION, list(sentences), voice_name(language), voices, seed, versions)
    digest.update(repr(parts).encode())
    folder = Path(HF_HOME) / "hf_asr" / "spoken" / digest.hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_suffix(".lock")):  # two runs with the same sentences
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            _speak_into(partial / "train", sentences, language=language, voices=voices, seed=seed)
            partial.rename(folder)
    return folder


def _speak_into(folder: Path, sentences: Sequence[str], *, language: str, voices: int, seed: int) -> None:
    """Write the recordings that the folder lacks; what espeak-ng does not speak is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    names = _written(folder / "metadata.jsonl")
    count = len(names)
    # Line by line, because a process that is killed writes no buffer.
    with (
        open(folder / "metadata.jsonl", "a", encoding="utf-8", newline="\n", buffering=1) as metadata,
        tqdm(total=len(sentences) * voices, desc="Speaking", unit="utterance") as progress,
    ):
        for number, sentence in enumerate(sentences):
            for rendition in range(voices):
                path = folder / f"{number:06d}-{rendition}.flac"
                progress.update()
                if path.name in names:
                    continue
                try:
                    samples, speaker = _rendition(sentence, rendition, language=language, seed=seed)
                except UnspeakableError:
                    continue
                row = {"utterance_id": f"{_digest(sentence)}-{rendition}", "text": sentence}
                row |= {"language": voice_name(language), "speaker": speaker}
                metadata.write(write_recording(path, samples, row))
                count += 1
    if not count:
        raise ValueError(f"warm_start: espeak-ng speaks none of {len(sentences)} sentences in {language}")


def _written(metadata: Path) -> set[str]:
    """Return the names of the files that a metadata.jsonl describes; remove a line that is only half written."""
    found = metadata.read_bytes() if metadata.is_file() else b""
    whole = found[: found.rfind(b"\n") + 1]
    if whole != found:
        metadata.write_bytes(whole)
    return {json.loads(line)["file_name"] for line in whole.splitlines()}


def _rendition(sentence: str, number: int, *, language: str, seed: int) -> tuple[np.ndarray, str]:
    """Return a rendition of a sentence, float32 (samples,) at 16 kHz, and the speaker.

    The renditions of a sentence have different voices, as long as there are enough.
    """
    sentence = unicodedata.normalize("NFC", sentence)  # espeak-ng does not know combining marks
    order = _generator(seed, sentence).permutation(len(CLEAR_VARIANTS))
    variant = CLEAR_VARIANTS[order[number % len(order)]]
    samples, speaker, _ = make_recording(
        sentence.lower(),  # words in capitals would be spelled letter by letter
        language=language,
        generator=_generator(seed, sentence, number),
        variants=[variant],
        rates_wpm=RATES_WPM,
        pitches=PITCHES,
    )
    return samples, speaker


def _generator(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(int(_digest(*parts), base=16))


def _digest(*parts: int | str) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
