"""Turn transcripts into phonemes, which the lower layers of a model are trained to recognise."""

import logging
import re
import unicodedata
from collections.abc import Sequence

import datasets

from ..model import ConformerConfig
from .espeak import phonemize, voice_name
from .inspection import TokenIds
from .languages import find_language

logger = logging.getLogger("hf_asr")

TEXTS = 20_000  # transcripts in which the phonemes of a language are found
SYLLABLES = ("CJK UNIFIED IDEOGRAPH", "HANGUL SYLLABLE")  # Unicode names of characters that are a syllable each
LONGEST = 5  # phonemes of a syllable; the voices of other languages read 好 as "Chinese letter"
TONE = re.compile(r"\d+$")  # at the end of a vowel's name


def choose_phonemes(language: str | None, texts: Sequence[str]) -> dict:
    """Return the settings `phoneme_language` and `phonemes` of a model for a language and its transcripts.

    Args:
        language: Code of a language, "auto" or None; with "auto", Mandarin and English are recognised, and other
            languages have no phonemes.

    Raises:
        ValueError: espeak-ng does not speak the language.
        ImportError: `espeakng-loader` is not installed.
        RuntimeError: espeak-ng does not start.
    """
    if not isinstance(language, str | None):  # YAML reads `no` as false
        raise ValueError(f"model: phoneme_language must be auto or a code such as de or 'no', not {language!r}")
    if language == "auto":
        language = find_language(texts)
        if language is None:
            advice = "set model: {phoneme_language: …}, such as de or hi, if espeak-ng speaks it"
            logger.info(f"phoneme_language: none, because the language of the transcripts is not known; {advice}")
    if language is None:
        return {"phoneme_language": None, "phonemes": []}
    found = sorted({name for phonemes in phonemize(texts[:TEXTS], language=language) for name in phonemes})
    logger.info(f"phoneme_language: {language}: {len(found)} phonemes (espeak-ng's voice {voice_name(language)})")
    return {"phoneme_language": language, "phonemes": found}


def sounds_of(tokens: Sequence[str], *, language: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the sounds of the tokens that are a syllable each, such as 好; tokens of other scripts are left out.

    The five sounds of a token are the syllable, the syllable without its tone, its first phoneme, the phonemes after
    it, and the tone. A character with several readings has those of one of them.

    Raises:
        ValueError, ImportError, RuntimeError: See `choose_phonemes`.
    """
    characters = [token for token in tokens if len(token) == 1 and unicodedata.name(token, "").startswith(SYLLABLES)]
    sounds = {}
    for character, phonemes in zip(characters, phonemize(characters, language=language), strict=True):
        if 0 < len(phonemes) <= LONGEST:
            plain = [TONE.sub("", name) for name in phonemes]
            tones = [match[0] for name in phonemes if (match := TONE.search(name))]
            parts = {"syllable": phonemes, "toneless": plain, "first": plain[:1], "rest": plain[1:], "tone": tones}
            sounds[character] = [(part, *names) for part, names in parts.items()]
    return sounds


def encode(rows: datasets.Dataset | Sequence[dict], config: ConformerConfig) -> TokenIds | None:
    """Return the phoneme ids of each row's transcript, without unknown phonemes; None for a model without phonemes."""
    if not getattr(config, "phonemes", ()):
        return None
    texts = rows["text"][:] if isinstance(rows, datasets.Dataset) else [row["text"] for row in rows]
    ids = {name: number for number, name in enumerate(config.phonemes, start=1)}  # 0 is the blank
    encoded = TokenIds()
    for phonemes in phonemize(texts, language=config.phoneme_language):
        encoded.append([ids[name] for name in phonemes if name in ids])
    return encoded
