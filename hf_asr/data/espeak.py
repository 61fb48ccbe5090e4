"""Speak text with espeak-ng, in any of its more than a hundred languages and in dozens of voices.

`espeakng_loader` (PyPI) contains the espeak-ng library and its data, so that no program needs to be installed.
"""

import _ctypes
import ctypes
import difflib
import functools
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm.auto import tqdm

from .espeak_words import NO_PHONEME, Event, spoken_words
from .word_times import TimedWord

SAMPLE_RATE = 16_000
VOICE_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4")  # of the synthetic corpus
# Variants that are easy to understand, without whispering and robots. On each of them the quickstart's recogniser,
# trained on VOICE_VARIANTS only, has a CER of at most 20 % (mean of Mandarin and English).
CLEAR_VARIANTS = (
    *VOICE_VARIANTS,
    *("m8", "f5", "Alex", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Mario"),
    *("Michael", "Mike", "Nguyen", "Reed", "Storm", "Tweaky", "adam", "aunty", "belinda", "benjamin", "boris", "croak"),
    *("ed", "edward", "edward2", "grandma", "grandpa", "gustave", "iven", "iven2", "iven3", "iven4", "john", "klatt3"),
    *("klatt6", "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "quincy", "rob", "robert"),
    *("sandro", "shelby", "steph", "steph2", "steph3", "travis", "victor"),
)

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001  # which do not change the audio
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3


class _Event(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "unique_identifier", "text_position", "length")),
        *((name, ctypes.c_int) for name in ("audio_position", "sample")),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class UnspeakableError(ValueError):
    """espeak-ng does not speak a text: it has signs only, or characters that espeak-ng does not know."""


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError("Synthetic speech needs another package: pip install espeakng-loader") from error
    return espeakng_loader


@functools.cache
def voices_by_language() -> dict[str, str]:
    """Return {language code: name of espeak-ng's voice}, such as {"zh": "cmn", "en": "en-us", "pt-br": "pt-br"}."""
    data, ranked = Path(_loader().get_data_path()), []
    for path in sorted(path for path in (data / "lang").rglob("*") if path.is_file()):
        voice, settings = path.name.lower(), path.read_text("utf-8", errors="replace")
        dictionary = re.search(r"^dictionary +(\S+)", settings, re.MULTILINE)
        if not (data / f"{dictionary[1] if dictionary else voice.split('-')[0]}_dict").is_file():
            continue  # a few voices come without their dictionary, and speak nothing
        ranked.append((0, voice, voice))
        # A line such as "language en-us 2": a lower number is a better voice for this code, and 5 is the default.
        lines = re.findall(r"^language +(\S+) *(\d*)", settings, re.MULTILINE)
        ranked += [(int(rank or 5), code.lower(), voice) for code, rank in lines]
    voices: dict[str, str] = {"en": "en-us"}  # espeak-ng's "en" is British
    for _, code, voice in sorted(ranked, key=lambda entry: entry[0]):
        voices.setdefault(code, voice)
    return dict(sorted(voices.items()))


def voice_name(language: str) -> str:
    """Return the name of espeak-ng's voice for a language code, such as `de`, `hi`, `en-gb` or `zh`.

    Raises:
        ValueError: espeak-ng does not speak the language.
        ImportError: `espeakng-loader` is not installed.
    """
    voices = voices_by_language()
    code = language.lower().replace("_", "-")
    if code in voices:
        return voices[code]
    near = difflib.get_close_matches(code, voices, n=5, cutoff=0.5)
    near = list(dict.fromkeys([name for name in voices if name.split("-")[0] == code.split("-")[0]] + near))
    advice = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(voices)}"
    raise ValueError(f"espeak-ng does not speak the language {language!r}; {advice}")


def speak(text: str, *, language: str, voice_variant: str, rate_wpm: int, pitch: int) -> np.ndarray:
    """Return the speech of espeak-ng, float32 (samples,) in [-1, 1] at 16 kHz, without silence at the ends.

    The audio depends on the arguments only. Do not call this function from several threads at once.

    Args:
        language: Code of a language, see `voice_name`.
        voice_variant: A voice variant of espeak, such as "m3" or "f2".
        rate_wpm: Words per minute, 80 to 450.
        pitch: 0 to 99.

    Raises:
        UnspeakableError: espeak-ng speaks nothing, or reads a part in English although it has no English letters.
        ValueError: The language or the variant is unknown.
        ImportError: `espeakng-loader` is not installed.
        RuntimeError: espeak-ng does not start.
    """
    return speak_with_times(text, language=language, voice_variant=voice_variant, rate_wpm=rate_wpm, pitch=pitch)[0]


def speak_with_times(
    text: str, *, language: str, voice_variant: str, rate_wpm: int, pitch: int
) -> tuple[np.ndarray, list[TimedWord]]:
    """Return the speech as `speak` does, and its words with their times; see `espeak_words.spoken_words`.

    Raises:
        UnspeakableError, ValueError, ImportError, RuntimeError: See `speak`.
    """
    loader = _loader()
    folder = Path(loader.get_data_path())
    if not (folder / "voices" / "!v" / voice_variant).is_file():  # espeak itself would silently ignore it
        raise ValueError(f"Unknown voice variant {voice_variant!r}; choose from {', '.join(CLEAR_VARIANTS)}.")
    voice = f"{voice_name(language)}+{voice_variant}"
    library = ctypes.CDLL(loader.get_library_path())
    try:
        samples, espeak_rate, spans = _synthesize(library, folder, text, voice=voice, rate_wpm=rate_wpm, pitch=pitch)
    finally:
        _unload(library)
    sounding = np.flatnonzero(samples)
    if not len(sounding):
        raise UnspeakableError(f"espeak-ng produced only silence for {text!r}; pass text with words in it.")
    first, last = int(sounding[0]), int(sounding[-1]) + 1

    def seconds(sample: int) -> float:
        return (min(max(sample, first), last) - first) / espeak_rate

    samples = samples[first:last].astype(np.float32) / 32_768
    words = [TimedWord(word, seconds(start), seconds(end)) for word, start, end in spans]
    return np.clip(soxr.resample(samples, espeak_rate, SAMPLE_RATE), -1, 1), words


def phonemize(texts: Sequence[str], *, language: str) -> list[list[str]]:
    """Return the phonemes of each text, by espeak-ng's names, without stress and pauses; tones belong to vowels.

    A text without letters that espeak-ng knows has none.

    Args:
        language: Code of a language, see `voice_name`.

    Raises:
        ValueError: The language is unknown.
        ImportError: `espeakng-loader` is not installed.
        RuntimeError: espeak-ng does not start.
    """
    loader, voice = _loader(), voice_name(language)
    library = ctypes.CDLL(loader.get_library_path())
    try:
        _start(library, Path(loader.get_data_path()), voice=voice)
        try:
            found, is_quick = {}, len(texts) < 10_000
            for text in tqdm(dict.fromkeys(texts), desc="Phonemes", unit="text", leave=False, disable=is_quick):
                # espeak-ng spells some words in capitals, and does not know combining marks.
                names = _own_names(library, unicodedata.normalize("NFC", text.lower()))
                found[text] = [name.lstrip("',%=") for name in names if not name.startswith(NO_PHONEME)]
        finally:
            library.espeak_Terminate()
    finally:
        _unload(library)
    return [found[text] for text in texts]


def is_misread(text: str, names: Sequence[str]) -> bool:
    """Return whether espeak-ng reads a part of a text in English although the text has no English letters.

    It does not know some syllables of Mandarin (熊, 穷), nor 儿 at the end of many words, and reads their pinyin.

    Args:
        names: Names of the phonemes of the text.
    """
    return "(en)" in names and not re.search("[a-z]", text, re.IGNORECASE)


def _own_names(library: ctypes.CDLL, text: str) -> list[str]:
    """Return the names as `_phoneme_names` does; a misread text is read by character, without the unknown ones."""
    names = _phoneme_names(library, text)
    if not is_misread(text, names):
        return names
    each = [(character, _phoneme_names(library, character)) for character in text]
    return [name for character, names in each if not is_misread(character, names) for name in names]


def _start(library: ctypes.CDLL, folder: Path, *, voice: str) -> int:
    """Start espeak-ng with a voice; return the rate of its samples in Hz."""
    home = str(folder.parent).encode()
    options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, home, options)
    if rate <= 0:
        raise RuntimeError(
            f"espeak-ng did not start with the data in {folder}; reinstall espeakng-loader, "
            "in a folder whose path is shorter than 160 characters."
        )
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        library.espeak_Terminate()
        raise RuntimeError(f"espeak-ng has no voice {voice}; reinstall espeakng-loader.")
    return rate


def _unload(library: ctypes.CDLL) -> None:
    """Unload espeak-ng, which takes 1 ms.

    It keeps the phase of its pitch flutter from one sentence to the next, and has no call to reset it: the audio would
    depend on the previous sentences.
    """
    (_ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose)(library._handle)


def _synthesize(
    library: ctypes.CDLL, folder: Path, text: str, *, voice: str, rate_wpm: int, pitch: int
) -> tuple[np.ndarray, int, list[tuple[str, int, int]]]:
    """Return the samples of espeak-ng, int16 (samples,), their rate in Hz, and the words as `spoken_words` does."""
    chunks: list[np.ndarray] = []
    found: list[Event] = []

    @_SynthCallback
    def collect(samples, count, events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda event: event.type != _EVENT_LIST_TERMINATED, events):
            name = event.phoneme.decode("ascii", "replace") if event.type == _EVENT_PHONEME else ""
            found.append(Event(event.sample, event.text_position - 1, name))
        return 0

    rate = _start(library, folder, voice=voice)
    try:
        library.espeak_SetSynthCallback(collect)
        library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
        if is_misread(text, [event.phoneme for event in found]):
            raise UnspeakableError(f"espeak-ng reads a part of {text!r} in English: leave the text out")
        words = spoken_words(text, found, count_phonemes=functools.partial(_count_phonemes, library))
    finally:
        library.espeak_Terminate()  # ends the thread of espeak, before the library is unloaded
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16), rate, words


def _count_phonemes(library: ctypes.CDLL, word: str) -> int:
    """Return the number of phonemes of a word that is spoken alone, without synthesising it."""
    return sum(not name.startswith(NO_PHONEME) for name in _phoneme_names(library, word))


def _phoneme_names(library: ctypes.CDLL, text: str) -> list[str]:
    """Return the names of the phonemes of a text, with stress, pauses and other languages, without synthesising it."""
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    rest, names = ctypes.c_char_p(text.encode(errors="replace")), []
    while rest.value is not None:  # one clause after another
        phonemes = library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, ord("\n") << 8)
        names += phonemes.decode(errors="replace").split()
    return names


def make_recording(
    text: str,
    *,
    language: str,
    generator: np.random.Generator,
    variants: Sequence[str] = VOICE_VARIANTS,
    rates_wpm: tuple[int, int] = (155, 211),
    pitches: tuple[int, int] = (30, 71),
) -> tuple[np.ndarray, str, list[TimedWord]]:
    """Return a sentence in a random voice, float32 (samples,) at 16 kHz, the speaker, and the words with their times.

    The speaker is a name such as "en-us+m3". The times are rounded to milliseconds.

    Args:
        variants: Voice variants to draw from.
        rates_wpm, pitches: Ranges to draw from, without their ends; see `speak`.

    Raises:
        UnspeakableError, ValueError, ImportError, RuntimeError: See `speak`.
    """
    variant = variants[generator.integers(len(variants))]
    rate_wpm = int(generator.integers(*rates_wpm))
    pitch = int(generator.integers(*pitches))
    voice = {"voice_variant": variant, "rate_wpm": rate_wpm, "pitch": pitch}
    speech, words = speak_with_times(text, language=language, **voice)
    speech *= generator.uniform(0.3, 0.9) / np.abs(speech).max()
    before, after = (generator.uniform(0.05, 0.2, size=2) * SAMPLE_RATE).astype(int)
    samples = np.pad(speech, (before, after))
    # Noise at -60 dB of full scale: no microphone produces digital silence, whose log-mel features are extreme.
    samples += generator.normal(scale=1e-3, size=len(samples)).astype(np.float32)
    shift = before / SAMPLE_RATE
    words = [TimedWord(word.word, round(word.start + shift, 3), round(word.end + shift, 3)) for word in words]
    return np.clip(samples, -1, 1), f"{voice_name(language)}+{variant}", words


def write_recording(path: Path, samples: np.ndarray, row: dict[str, Any]) -> str:
    """Write a 16 kHz mono 16-bit FLAC file, and return the line of metadata.jsonl that describes it.

    Args:
        row: The columns between `file_name` and `duration` (seconds).
    """
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    line = {"file_name": path.name, **row, "duration": round(len(samples) / SAMPLE_RATE, 4)}
    return json.dumps(line, ensure_ascii=False) + "\n"
