"""Generate a small spoken Mandarin and English corpus offline with espeak-ng.

It is for tests, examples and smoke runs: no download, no licence, and the same audio from the same seed. The sentences
are spoken numbers and short household commands, drawn from templates over a small set of characters.

`espeakng_loader` (PyPI) contains the espeak-ng library and its data, so that no program needs to be installed.
"""

import _ctypes
import ctypes
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm.auto import tqdm

from ..model.spelling_conformer import spell_english, spell_mandarin

SAMPLE_RATE = 16_000
VOICE_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4")

# Stored in corpus.json. Increase it when sentences or audio change, so that an old folder is not reused.
CORPUS_VERSION = 1

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


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

    voice: str
    spell: Callable[[int], str]
    templates: tuple[str, ...]
    slots: dict[str, Sequence[str] | range]


# Together the words use all 26 letters. A spoken sentence takes 1 to 4 seconds.
_ENGLISH = _Language(
    voice="en-us",
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
    voice="cmn",
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


def speak(text: str, *, language: str, voice_variant: str, rate_wpm: int, pitch: int) -> np.ndarray:
    """Return the speech of espeak-ng, float32 (samples,) in [-1, 1] at 16 kHz, without silence at the ends.

    The audio depends on the arguments only. Do not call this function from several threads at once.

    Args:
        voice_variant: A voice variant of espeak, such as "m3" or "f2".
        rate_wpm: Words per minute, 80 to 450.
        pitch: 0 to 99.

    Raises:
        ValueError: The language or the variant is unknown, or the speech is silent.
        ImportError: `espeakng-loader` or `soxr` is not installed.
        RuntimeError: espeak-ng does not start.
    """
    try:
        import espeakng_loader
        import soxr
    except ImportError as error:
        raise ImportError("The synthetic corpus needs two packages: pip install espeakng-loader soxr") from error

    data_path = Path(espeakng_loader.get_data_path())
    if not (data_path / "voices" / "!v" / voice_variant).is_file():  # espeak itself would silently ignore it
        raise ValueError(f"Unknown voice variant {voice_variant!r}; choose from {', '.join(VOICE_VARIANTS)}.")
    voice = f"{_language(language).voice}+{voice_variant}"
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        samples, espeak_rate = _synthesize(library, data_path, text, voice=voice, rate_wpm=rate_wpm, pitch=pitch)
    finally:
        # espeak keeps the phase of its pitch flutter from one sentence to the next, and has no call to reset it. The
        # audio would depend on the previous sentences, so the library is unloaded, which takes 1 ms.
        (_ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose)(library._handle)
    sounding = np.flatnonzero(samples)
    if not len(sounding):
        raise ValueError(f"espeak-ng produced only silence for {text!r}; pass text with words in it.")
    samples = samples[sounding[0] : sounding[-1] + 1].astype(np.float32) / 32_768
    return np.clip(soxr.resample(samples, espeak_rate, SAMPLE_RATE), -1, 1)


def _synthesize(
    library: ctypes.CDLL, data_path: Path, text: str, *, voice: str, rate_wpm: int, pitch: int
) -> tuple[np.ndarray, int]:
    """Return the samples of espeak-ng, int16 (samples,), and their rate in Hz."""
    chunks: list[np.ndarray] = []

    @_SynthCallback
    def collect(samples, count, events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    home = str(data_path.parent).encode()
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, home, _INITIALIZE_DONT_EXIT)
    if rate <= 0:
        raise RuntimeError(
            f"espeak-ng did not start with the data in {data_path}; reinstall espeakng-loader, "
            "in a folder whose path is shorter than 160 characters."
        )
    try:
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice}; reinstall espeakng-loader.")
        library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()  # ends the thread of espeak, before the library is unloaded
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16), rate


def make_recording(text: str, *, language: str, generator: np.random.Generator) -> tuple[np.ndarray, str]:
    """Return a sentence in a random voice, float32 (samples,) at 16 kHz, and the speaker, such as "en-us+m3"."""
    variant = VOICE_VARIANTS[generator.integers(len(VOICE_VARIANTS))]
    rate_wpm = int(generator.integers(155, 211))
    pitch = int(generator.integers(30, 71))
    speech = speak(text, language=language, voice_variant=variant, rate_wpm=rate_wpm, pitch=pitch)
    speech *= generator.uniform(0.3, 0.9) / np.abs(speech).max()
    before, after = (generator.uniform(0.05, 0.2, size=2) * SAMPLE_RATE).astype(int)
    samples = np.pad(speech, (before, after))
    # Noise at -60 dB of full scale: no microphone produces digital silence, whose log-mel features are extreme.
    samples += generator.normal(scale=1e-3, size=len(samples)).astype(np.float32)
    return np.clip(samples, -1, 1), f"{_language(language).voice}+{variant}"


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
    `speaker` and `duration` (seconds). The corpus depends only on `arguments`, which are stored in `corpus.json`: a
    folder with the same arguments is reused. The corpus is written to a temporary folder that is renamed at the end, so
    that a folder with a `corpus.json` is always complete.

    Raises:
        ValueError: `output_dir` contains anything else, or the arguments cannot be satisfied; see also `speak`.
    """
    output_dir = Path(output_dir).absolute()
    if not arguments.languages or len(set(arguments.languages)) < len(arguments.languages):
        raise ValueError(f"languages is {arguments.languages}; give at least one language, and each only once.")
    if arguments.train_sentences + arguments.validation_sentences + arguments.test_sentences < 1:
        raise ValueError("The corpus would have no sentences; set train_sentences to 1 or more.")

    manifest = {"version": CORPUS_VERSION, **asdict(arguments)}
    manifest_path = output_dir / "corpus.json"
    if manifest_path.is_file() and json.loads(manifest_path.read_text(encoding="utf-8")) == manifest:
        return output_dir
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(
            f"{output_dir} contains something other than this corpus; remove it or choose another output_dir."
        )

    generator = np.random.default_rng(arguments.seed)
    splits = _draw_splits(arguments, generator)
    partial_dir = output_dir.with_name(f".{output_dir.name}.partial-{os.getpid()}")
    partial_dir.mkdir(parents=True)
    try:
        with tqdm(total=sum(map(len, splits.values())), desc="Speaking", unit="sentence") as progress:
            for split, rows in splits.items():
                (partial_dir / split).mkdir()
                with open(partial_dir / split / "metadata.jsonl", "w", encoding="utf-8") as metadata:
                    for number, row in enumerate(rows):
                        samples, speaker = make_recording(**row, generator=generator)
                        name = f"{number:05d}.flac"
                        soundfile.write(partial_dir / split / name, samples, SAMPLE_RATE, subtype="PCM_16")
                        duration = round(len(samples) / SAMPLE_RATE, 4)
                        line = {"file_name": name, **row, "speaker": speaker, "duration": duration}
                        metadata.write(json.dumps(line, ensure_ascii=False) + "\n")
                        progress.update()
        (partial_dir / "corpus.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        os.replace(partial_dir, output_dir)
    except BaseException:
        shutil.rmtree(partial_dir, ignore_errors=True)
        raise
    return output_dir
