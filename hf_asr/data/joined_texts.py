"""Join the texts of utterances that become one example: with spaces, except in scripts that have none."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from ..model.tokenization_conformer import SPACE
from .languages import writes_spaces


def join_texts(texts: Iterable[str], *, has_space: bool = True) -> str:
    """Return one text. A space separates two texts unless both letters beside it are of scripts without spaces.

    Args:
        has_space: Whether the vocabulary has a space, see `has_space`; without one, nothing separates the texts.
    """
    joined = ""
    for text in filter(None, texts):
        letters = [_letter(reversed(joined)), _letter(text)]
        needs_space = has_space and joined and any(letter is None or writes_spaces(letter) for letter in letters)
        joined += f" {text}" if needs_space else text
    return joined


def has_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a vocabulary has a space, alone or in pieces."""
    return any(SPACE in token for token in tokenizer.get_vocab())


def lacking_space(texts: Sequence[str]) -> list[str]:
    """Return a text with the space that joined texts have and no text has: transcripts of single words; else nothing.

    A vocabulary is learned from it, too. Without, the space between joined texts would be an unknown token.
    """
    if any(" " in text.strip() for text in texts):
        return []
    joined = (join_texts([text, text]) for text in texts)
    return [text for text in joined if " " in text.strip()][:1]


def _letter(text: Iterable[str]) -> str | None:
    """Return the first letter or digit."""
    return next((character for character in text if character.isalnum()), None)
