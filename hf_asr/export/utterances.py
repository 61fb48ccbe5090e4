"""Load the utterances on which a graph is compared with its checkpoint: speech that the checkpoint transcribes."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..data.audio import AudioError, read_array
from ..data.espeak import SAMPLE_RATE, make_recording
from ..data.sources import Source, read_row
from ..data.synthetic import make_sentences
from ..model import ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..model.spelling_conformer import HAN
from ..provenance import public_name
from ..scoring.metrics import count_errors
from ..training.data_used import validation_rows
from .check import MIN_CHARACTERS, greedy_transcriber, source_runner

MAX_SECONDS = 30.0  # longest utterance; longer recordings are transcribed in windows of this length
# Speech of espeak-ng, used without recordings.
MAX_SPOKEN = 600  # utterances that are tried
ENOUGH_CHARACTERS = 2 * MIN_CHARACTERS  # transcribed characters that end the search
MAX_SPOKEN_CER = 0.2  # of an utterance that is used
SENTENCES, HAN_PHRASES = 60, 40
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass
class Utterances:
    """Mono waveforms (samples,) at the model's sampling rate, their transcripts, and a description for reports."""

    waveforms: list[np.ndarray]
    references: list[str]
    description: str


def load_utterances(args: argparse.Namespace, model: ConformerForCTC, processor: ConformerProcessor) -> Utterances:
    """Load the utterances from the first source that is available.

    The sources are `args.dataset_name`, the validation data of the checkpoint's training, and speech of espeak-ng.

    Raises:
        ValueError: The dataset does not exist or has no readable recording; or, without a dataset, the checkpoint
            transcribes too little of espeak-ng's speech well.
    """
    rate = processor.feature_extractor.sampling_rate
    if args.dataset_name is not None:
        return named_utterances(args, split=args.eval_split_name, limit=args.max_utterances, rate=rate)
    try:
        if (found := validation_rows(args.model_name_or_path)) is not None:
            rows, description = found
            return read_utterances(rows, description, limit=args.max_utterances, rate=rate)
    except (ValueError, OSError) as error:
        print(f"the validation data of the training are not available, so espeak-ng speaks: {error}", file=sys.stderr)
    return spoken_utterances(model, processor, limit=args.max_utterances)


def named_utterances(args: argparse.Namespace, *, split: str, limit: int, rate: int) -> Utterances:
    """Load at most `limit` utterances of a split of `args.dataset_name`; `rate` is in Hz."""
    rows = Source(args.dataset_name, config_name=args.dataset_config_name).load(split)
    return read_utterances(rows, f"{public_name(args.dataset_name)}, {split!r}", limit=limit, rate=rate)


def read_utterances(rows: datasets.Dataset, description: str, *, limit: int, rate: int) -> Utterances:
    """Read at most `limit` rows, drawn with a fixed seed; unreadable recordings are left out.

    Args:
        rate: Sampling rate of the waveforms, in Hz.

    Raises:
        ValueError: No recording can be read.
    """
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    waveforms, references = [], []
    for row in rows.select(sorted(order)):
        try:
            waveforms.append(read_row(row, sampling_rate=rate, max_seconds=MAX_SECONDS))
            references.append(row["text"])
        except AudioError as error:
            print(f"left out: {row['utterance_id']}: {error}", file=sys.stderr)
    if not waveforms:
        raise ValueError(f"{description}: no readable recording of at most {MAX_SECONDS:g} s")
    return Utterances(waveforms, references, f"{len(waveforms)} utterances of {description}")


def spoken_utterances(model: ConformerForCTC, processor: ConformerProcessor, *, limit: int) -> Utterances:
    """Make speech with espeak-ng of texts in the checkpoint's vocabulary; keep what the checkpoint transcribes well.

    Raises:
        ValueError: Too few utterances are kept.
    """
    generator = np.random.default_rng(0)
    tokenizer, rate = processor.tokenizer, processor.feature_extractor.sampling_rate
    texts = spellable_texts(tokenizer, generator)
    run, transcribe = source_runner(model, processor), greedy_transcriber(tokenizer)
    tried, kept = np.zeros(len(texts)), np.zeros(len(texts))
    waveforms, references, characters = [], [], 0
    for _ in tqdm(range(MAX_SPOKEN if texts else 0), desc="Speaking", unit="utterance"):
        if len(waveforms) == limit or characters >= ENOUGH_CHARACTERS:
            break
        # Texts that were transcribed well are drawn again in other voices, the others more and more rarely.
        shares = (1 + kept) / (1 + tried)
        place = generator.choice(len(texts), p=shares / shares.sum())
        text, language = texts[place]
        tried[place] += 1
        try:
            samples, *_ = make_recording(text, language=language, generator=generator)
        except ValueError:  # a character that espeak-ng does not know
            continue
        waveform = read_array(samples, SAMPLE_RATE, sampling_rate=rate).waveform
        found = tokenizer.normalize(transcribe(run(waveform)))
        *errors, length = count_errors([tokenizer.normalize(text)], [found], unit="character")[0]
        if sum(errors) <= MAX_SPOKEN_CER * length:
            kept[place] += 1
            characters += len(found)
            waveforms.append(waveform)
            references.append(text)
    if not waveforms or (characters < MIN_CHARACTERS and len(waveforms) < limit):
        raise ValueError(
            f"nothing to compare a graph on: espeak-ng spoke {len(texts)} sentences and words of its vocabulary, "
            f"and the checkpoint transcribes {len(waveforms)} recordings ({characters} characters) of them well: give "
            "recordings that it transcribes with --dataset_name"
        )
    description = f"{len(waveforms)} utterances of espeak-ng that the checkpoint transcribes well"
    return Utterances(waveforms, references, description)


def spellable_texts(tokenizer: ConformerTokenizer, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Return (text, language) of sentences, words and phrases of Han characters that the vocabulary can spell."""
    sentences = {language: make_sentences(language, count=SENTENCES, generator=generator) for language in ("en", "zh")}
    words = sorted({word for sentence in sentences["en"] for word in sentence.split()} | set(DIGITS))
    texts = [(text, "en") for text in [*sentences["en"], *words]] + [(text, "zh") for text in sentences["zh"]]
    characters = sorted({token for token in tokenizer.get_vocab() if HAN.fullmatch(token)})
    if characters:
        phrases = generator.choice(characters, size=(HAN_PHRASES, 4))
        texts += [("".join(phrase), "zh") for phrase in phrases]
    return [(text, language) for text, language in texts if _is_spellable(tokenizer, text)]


def _is_spellable(tokenizer: ConformerTokenizer, text: str) -> bool:
    ids: Sequence[int] = tokenizer(text).input_ids
    return bool(ids) and tokenizer.unk_token_id not in ids
