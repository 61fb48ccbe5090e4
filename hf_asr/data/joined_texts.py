"""Join the texts of utterances that become one example: with spaces, except in scripts that have none."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from ..model.tokenization_conformer import SPACE
from .languages import writes_spaces


def join_texts(texts: Iterable[str]) -> str:
    """Return one text. A space separates two texts unless both letters beside it are of scripts without spaces."""
    joined = ""
    for text in filter(None, texts):
        is_separate = joined and not (_is_spaceless(reversed(joined)) and _is_spaceless(text))
        joined += f" {text}" if is_separate else text
    return joined


def joined_labels(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the labels of joined texts, without the spaces that a vocabulary lacks."""
    labels = tokenizer(joined := join_texts(texts))["input_ids"]
    if tokenizer.unk_token_id not in labels or has_space(tokenizer):
        return labels
    # Normalised first, so that the digits of two texts are not one number.
    return tokenizer(tokenizer.normalize(joined).replace(" ", ""))["input_ids"]


def has_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a vocabulary has a space, alone or in pieces."""
    return any(SPACE in token for token in tokenizer.get_vocab())


def example_of_joints(texts: Sequence[str]) -> list[str]:
    """Return a text in which texts are joined as in training, so that a vocabulary learns the space between them.

    Transcripts of single words have no space of their own. There is a text for each kind of beginning and end.
    """
    kinds = {(_is_spaceless(text), _is_spaceless(reversed(text)), text[-1:].isdigit()): text for text in texts if text}
    return [join_texts([*kinds.values(), *kinds.values()])]


def _is_spaceless(text: Iterable[str]) -> bool:
    """Return whether the first letter or digit is of a script without spaces."""
    letter = next((character for character in text if character.isalnum()), None)
    return letter is not None and not writes_spaces(letter)
