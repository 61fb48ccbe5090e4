"""Generate a small spoken Mandarin and English corpus offline with espeak-ng.

It is for tests, examples and smoke runs: no download, no licence, and the same audio from the same seed. The sentences
are spoken numbers and short household commands, drawn from templates over a small set of characters.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..files import folder_written_beside
from ..model.spelling_conformer import spell_english, spell_mandarin
from .espeak import make_recording, write_recording
from .word_times import WORDS

# Stored in corpus.json. Increase it when sentences, audio or word times change, so that an old folder is not reused.
CORPUS_VERSION = 2


@dataclass
class SyntheticCorpusArguments:
    """Configure a synthetic corpus. The counts are divided evenly over the languages."""

    languages: list[str] = field(
        default_factory=lambda: ["zh", "en"], metadata={"help": "Languages to speak: zh, en or both."}
    )
    train_sentences: int = field(default=800, metadata={"help": "Number of sentences in the train split."})
    validation_sentences: int = field(default=100, metadata={"help": "Number of sentences in the validation split."})
    test_sentences: int = field(default=0, metadata={"help": "Number of sentences in the test split; 0 for no split."})
    seed: int = field(default=0, metadata={"help": "Seed for the sentences, the voices and the noise."})


class _Language(NamedTuple):
    """Hold the templates of a language; a slot is a list of words or a range of numbers to spell."""

    spell: Callable[[int], str]
    templates: tuple[str, ...]
    slots: dict[str, Sequence[str] | range]


# Together the words use all 26 letters. A spoken sentence takes 1 to 4 seconds.
_ENGLISH = _Language(
    spell=spell_english,
    templates=(
        "{number}",
        "turn {switch} the {room} {device}",
        "turn {switch} the {room} {device} at {hour} o'clock",
        "set the timer to {small} minutes",
        "set the {room} heating to {small} degrees",
        "wake me up at {hour} {minute}",
        "don't call {name} before {hour} o'clock",
        "what's {small} {operation} {other}",
        "play {genre} music in the {room}",
        "play song number {hundreds}",
        "let's meet {name} at {hour} {minute}",
    ),
    slots={
        "number": range(1001, 10_000),
        "hundreds": range(101, 1000),
        "small": range(11, 100),
        "other": range(11, 100),
        "minute": range(10, 60),
        "hour": range(1, 13),
        "switch": ("on", "off"),
        "room": ("kitchen", "bedroom", "bathroom", "garage", "office", "hall", "living room"),
        "device": ("light", "fan", "radio", "speaker", "camera", "oven"),
        "operation": ("plus", "minus", "times"),
        "genre": ("jazz", "quiet", "relaxing", "piano"),
        "name": ("jack", "zoe", "max", "quinn"),
    },
)

# 44 different hanzi, with almost no homophones among them. The hours begin at three because two o'clock would add 两.
_MANDARIN = _Language(
    spell=spell_mandarin,
    templates=(
        "{number}",
        "{please}{switch}{room}的{device}",
        "{please}把{room}的空调调到{small}度",
        "{hour}点半{switch}{room}的{device}",
        "{hour}点{minute}分{switch}{room}的{device}",
        "{small}分钟后{switch}{room}的{device}",
        "{hundreds}{operation}{small}",
        "{please}放第{hundreds}首歌",
    ),
    slots={
        "number": range(1001, 10_000),
        "hundreds": range(101, 1000),
        "small": range(11, 100),
        "hour": range(3, 13),
        "minute": range(10, 60, 10),
        "please": ("请", ""),
        "switch": ("打开", "关上"),
        "room": ("客厅", "餐厅", "厨房", "书房"),
        "device": ("灯", "电灯", "空调", "电视"),
        "operation": ("加", "减"),
    },
)

_LANGUAGES = {"zh": _MANDARIN, "en": _ENGLISH}


def _language(code: str) -> _Language:
    if code not in _LANGUAGES:
        raise ValueError(f"Unknown language {code!r}; choose from {', '.join(_LANGUAGES)}.")
    return _LANGUAGES[code]


def make_sentences(language: str, *, count: int, generator: np.random.Generator) -> list[str]:
    """Return `count` different sentences in lower case, without punctuation and with all digits spelled.

    Raises:
        ValueError: The language is unknown, or the templates have fewer than `count` different sentences.
    """
    grammar = _language(language)
    sentences: dict[str, None] = {}  # a set that keeps its order
    for _ in range(100 * count):
        if len(sentences) == count:
            break
        words = {}
        for name, values in grammar.slots.items():
            value = values[generator.integers(len(values))]
            words[name] = grammar.spell(value) if isinstance(value, int) else value
        sentences[grammar.templates[generator.integers(len(grammar.templates))].format(**words)] = None
    if len(sentences) < count:
        raise ValueError(
            f"Only about {len(sentences)} different {language} sentences exist; ask for fewer than {count}."
        )
    return list(sentences)


def _normalise(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _draw_splits(
    arguments: SyntheticCorpusArguments, generator: np.random.Generator
) -> dict[str, list[dict[str, str]]]:
    """Return the sentences of every split with their languages, shuffled and all different."""
    counts = {
        "train": arguments.train_sentences,
        "validation": arguments.validation_sentences,
        "test": arguments.test_sentences,
    }
    splits: dict[str, list[dict[str, str]]] = {split: [] for split, count in counts.items() if count > 0}
    languages = arguments.languages
    for index, language in enumerate(languages):
        shares = {split: counts[split] // len(languages) + (index < counts[split] % len(languages)) for split in splits}
        sentences = iter(make_sentences(language, count=sum(shares.values()), generator=generator))
        for split, share in shares.items():
            splits[split] += [{"text": next(sentences), "language": language} for _ in range(share)]
    for rows in splits.values():
        generator.shuffle(rows)
    texts = [_normalise(row["text"]) for rows in splits.values() for row in rows]
    assert len(set(texts)) == len(texts), "a sentence occurs twice"
    return splits


def make_corpus(output_dir: str | os.PathLike, arguments: SyntheticCorpusArguments) -> Path:
    """Write the corpus as an `audiofolder` and return its folder.

    Each split is a folder of 16 kHz mono 16-bit FLAC files with a `metadata.jsonl` of `file_name`, `text`, `language`,
    `speaker`, `words` with their times, and `duration` (seconds). The corpus depends only on `arguments`, which are
    stored in `corpus.json`: a folder with the same arguments is reused. The corpus is written to a temporary folder
    that is renamed at the end, so that a folder with a `corpus.json` is always complete. If another process has written
    the same corpus meanwhile, that one is kept.

    Raises:
        ValueError: `output_dir` contains anything else, or the arguments cannot be satisfied; see also `espeak.speak`.
    """
    output_dir = Path(output_dir).absolute()
    if not arguments.languages or len(set(arguments.languages)) < len(arguments.languages):
        raise ValueError(f"languages is {arguments.languages}; give at least one language, and each only once.")
    if arguments.train_sentences + arguments.validation_sentences + arguments.test_sentences < 1:
        raise ValueError("The corpus would have no sentences; set train_sentences to 1 or more.")

    manifest = {"version": CORPUS_VERSION, **asdict(arguments)}
    if _is_complete(output_dir, manifest):
        return output_dir
    try:
        with folder_written_beside(output_dir) as folder:
            _write_corpus(folder, arguments)
            (folder / "corpus.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError:
        if not _is_complete(output_dir, manifest):
            raise
    return output_dir


def _is_complete(output_dir: Path, manifest: dict[str, Any]) -> bool:
    """Return whether the folder has the corpus of a manifest.

    Raises:
        ValueError: It contains anything else.
    """
    path = output_dir / "corpus.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == manifest:
        return True
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(
            f"{output_dir} has other files than those of this synthetic corpus: choose a new folder for the corpus. To "
            "train on the recordings of the folder, leave synthetic_corpus out (--synthetic_corpus null)"
        )
    return False


def _write_corpus(folder: Path, arguments: SyntheticCorpusArguments) -> None:
    """Write the splits into an empty folder."""
    generator = np.random.default_rng(arguments.seed)
    splits = _draw_splits(arguments, generator)
    with tqdm(total=sum(map(len, splits.values())), desc="Speaking", unit="sentence") as progress:
        for split, rows in splits.items():
            (folder / split).mkdir()
            with open(folder / split / "metadata.jsonl", "w", encoding="utf-8") as metadata:
                for number, row in enumerate(rows):
                    samples, speaker, words = make_recording(**row, generator=generator)
                    path = folder / split / f"{number:05d}.flac"
                    row |= {"speaker": speaker, WORDS: list(map(asdict, words))}
                    metadata.write(write_recording(path, samples, row))
                    progress.update()
