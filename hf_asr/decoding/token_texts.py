"""Read what each token of a vocabulary adds to a transcript."""

from transformers import PreTrainedTokenizerBase

from ..data.joined_texts import has_space
from ..model.tokenization_conformer import SPACE


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Return the text that each token id adds to a transcript, with " " for a space.

    It is empty for tokens without text (blank, `<sos/eos>`), and None for the unknown token. Only this function knows
    how vocabularies differ.
    """
    ids = range(max(tokenizer.get_vocab().values()) + 1)
    space = getattr(tokenizer, "word_delimiter_token", None) or SPACE  # `|` of wav2vec2's own tokenizer
    texts = [(token or "").replace(space, " ") for token in tokenizer.convert_ids_to_tokens(list(ids))]
    for token in {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}:
        texts[token] = ""
    if tokenizer.unk_token_id is not None:
        texts[tokenizer.unk_token_id] = None
    return texts


def unknown_characters(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the different characters of a normalised transcript that the vocabulary cannot spell, in their order."""
    unknown_id = tokenizer.unk_token_id
    if not hasattr(tokenizer, "normalize"):
        return [
            each for each in dict.fromkeys(text) if unknown_id in tokenizer(each, add_special_tokens=False).input_ids
        ]
    # A piece of several characters can be in a vocabulary that lacks these characters alone.
    text, backend = tokenizer.normalize(text), tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # as for labels: a transcript has no special tokens
    encoding = backend.encode(text, add_special_tokens=False)
    places = [place for number, place in zip(encoding.ids, encoding.offsets, strict=True) if number == unknown_id]
    unknown = {character for first, last in places for character in text[first:last]}
    if not has_space(tokenizer):
        unknown.add(" ")
    return [each for each in dict.fromkeys(text) if each in unknown]
