"""Choose the phonemes and sounds of a model: of a new one, and of a checkpoint that is fine-tuned."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..data.espeak import voice_name
from ..data.phonemes import choose_phonemes, sounds_of
from ..model import ConformerForCTC, ConformerTokenizer
from ..model.layers_conformer import SharedRowsLinear, replace_rows

logger = logging.getLogger("hf_asr")


def with_phonemes(options: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the options of a new model's configuration with its phonemes.

    Raises:
        ValueError: No layer would recognise the phonemes, they are given, or espeak-ng does not speak the language.
    """
    language = options.get("phoneme_language")
    if "phonemes" in options:
        raise ValueError("model: phonemes: the training finds them in the transcripts, leave the option out")
    if not options.get("intermediate_ctc_layers"):
        if language not in (None, "auto"):
            raise ValueError(f"model: phoneme_language {language} needs intermediate_ctc_layers, such as [2, 4]")
        language = None
    return options | choose_phonemes(language, texts)


def with_sounds(options: dict[str, Any], tokenizer: ConformerTokenizer) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Return the options of a new model's configuration with `num_sounds`, and the `shares` of its CTC head or None.

    Args:
        options: From `with_phonemes`.

    Raises:
        ValueError: The number of sounds is given; only 0 can be, which switches them off.
    """
    if options.get("num_sounds"):
        raise ValueError("model: num_sounds: the training finds it; leave the option out, or set 0 for none")
    language, vocabulary = options["phoneme_language"], tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)  # the tokenizer's own order differs from process to process
    sounds = {} if language is None or "num_sounds" in options else sounds_of(tokens, language=language)
    if not sounds:
        return options, None
    numbers: dict[tuple, int] = {}
    shares = torch.zeros(max(vocabulary.values()) + 1, SharedRowsLinear.SHARES, dtype=torch.int64)
    for token, own in sounds.items():
        shares[vocabulary[token]] = torch.tensor([numbers.setdefault(sound, len(numbers) + 1) for sound in own])
    logger.info(f"num_sounds: {len(numbers)}, rows of the CTC head that {len(sounds)} characters share by their sound")
    return options | {"num_sounds": len(numbers)}, shares


def refit_phonemes(model: ConformerForCTC, language: str | None, texts: Sequence[str]) -> None:
    """Give a checkpoint that is fine-tuned the phonemes of its new transcripts; those that it knows keep their rows.

    Without a known language, its lower layers have no loss: they were not trained to recognise tokens.

    Args:
        language: See `choose_phonemes`.
    """
    config, chosen = model.config, choose_phonemes(language, texts)
    old, found = list(config.phonemes), chosen["phonemes"]
    if not found:
        logger.info("phoneme_language: the lower layers of the checkpoint are trained without a loss of their own")
        config.update(chosen | {"intermediate_ctc_layers": []})
        del model.phoneme_head
        return
    if voice_name(chosen["phoneme_language"]) == voice_name(config.phoneme_language):
        found = old + [name for name in found if name not in old]
        logger.info(f"phoneme_language: the checkpoint knows {len(old)} phonemes, {len(found) - len(old)} more are new")
    config.update(chosen | {"phonemes": found})
    rows = {name: row for row, name in enumerate(old, start=1)}
    kept = {row: rows[name] for row, name in enumerate(found, start=1) if name in rows}
    replace_rows(model.phoneme_head, len(found) + 1, kept={0: 0} | kept)  # 0 is the blank
