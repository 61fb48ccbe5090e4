"""Characters or BPE over normalised transcripts; decoding collapses CTC (Graves et al. 2006) and tells times."""

import itertools
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from .spelling_conformer import HAN, spell_numbers

BLANK, UNKNOWN, SOS_EOS = "<blk>", "<unk>", "<sos/eos>"
SPACE = "▁"

_COLLAPSE_SPACES = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
_WORDS_ONLY = [
    normalizers.Replace(Regex(r"\[[^\]]*\]|<[^>]*>"), " "),  # annotations: [laughter], <noise>
    normalizers.Lowercase(),
    normalizers.Replace(Regex("[’‘`´＇]"), "'"),
    # Letters, their marks, digits and apostrophes inside words stay; everything else separates words.
    normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}']"), " "),
    normalizers.Replace(Regex(r"(?<![\p{L}\p{N}])'+|'+(?![\p{L}\p{N}])"), " "),
]
_NO_SPACES_AT_HAN = [normalizers.Replace(Regex(r"(?<=\p{Han})\s+|\s+(?=\p{Han})"), "")]
_NO_ACCENTS = [normalizers.NFKD(), normalizers.StripAccents()]
_NO_ENGLISH_FILLERS = [normalizers.Replace(Regex(r"(?<![\p{L}\p{N}'])(uh+|um+|h+m+|m+h+m+|mm+)(?![\p{L}\p{N}'])"), " ")]
_NO_MANDARIN_FILLERS = [normalizers.Replace("呃", " ")]

# What each setting of `text_normalization` does to a transcript, in training and in scoring alike, after the numbers
# were spelled in the language of the rule (`en`, `zh` and `zh-en`).
TEXT_NORMALIZATIONS: dict[str, list] = {
    "none": [normalizers.NFKC(), *_COLLAPSE_SPACES],
    "basic": [normalizers.NFKC(), *_WORDS_ONLY, *_COLLAPSE_SPACES],
    "en": [*_NO_ACCENTS, *_WORDS_ONLY, *_NO_ENGLISH_FILLERS, *_COLLAPSE_SPACES],
    "zh": [normalizers.NFKC(), *_WORDS_ONLY, *_NO_MANDARIN_FILLERS, *_NO_SPACES_AT_HAN, *_COLLAPSE_SPACES],
    "zh-en": [
        *_NO_ACCENTS,
        *_WORDS_ONLY,
        *_NO_ENGLISH_FILLERS,
        *_NO_MANDARIN_FILLERS,
        *_NO_SPACES_AT_HAN,
        *_COLLAPSE_SPACES,
    ],
}
SPELLS_NUMBERS = ("en", "zh", "zh-en")


def text_normalizer(name: str) -> normalizers.Normalizer:
    """The rule called `name`.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TEXT_NORMALIZATIONS:
        raise ValueError(f"text_normalization is one of {', '.join(TEXT_NORMALIZATIONS)}, not {name!r}")
    return normalizers.Sequence(TEXT_NORMALIZATIONS[name])


def _spell(text: str, rule: str | None) -> str:
    return spell_numbers(text, language=rule) if rule in SPELLS_NUMBERS else text


def normalize_text(text: str, *, rule: str) -> str:
    """What the setting `text_normalization: rule` makes of a transcript.

    Raises:
        ValueError: There is no such rule.
    """
    return text_normalizer(rule).normalize_str(_spell(text, rule))


class ConformerTokenizer(PreTrainedTokenizerFast):
    """Ids 0, 1 and 2 are the CTC blank (also the padding), the unknown token and the decoder's `<sos/eos>`.

    The normalisation is part of the saved tokenizer; `normalize` applies it alone.
    """

    # No __init__ here: transformers 5 rebuilds the backend of a class that has one, without normaliser and splitting.
    model_input_names = ["input_ids"]
    replace_word_delimiter_char = " "

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], *, kind: str = "char", text_normalization: str = "basic", vocab_size: int = 1000
    ) -> "ConformerTokenizer":
        """Learns a vocabulary from raw transcripts.

        Args:
            kind: `"char"`, one token a character, or `"bpe"`, at most `vocab_size` tokens, never across Han characters.

        Raises:
            ValueError: Another kind or normalisation; no text.
        """
        normalizer = text_normalizer(text_normalization)
        texts = [normalize_text(text, rule=text_normalization) for text in texts]
        if not any(texts):
            raise ValueError("no vocabulary can be learnt: every transcript is empty after normalisation")
        special = [BLANK, UNKNOWN, SOS_EOS]
        if kind == "char":
            characters = sorted({character.replace(" ", SPACE) for text in texts for character in text})
            vocabulary = {token: i for i, token in enumerate([*special, *characters])}
            tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
                    pre_tokenizers.Split(Regex("."), "isolated"),
                ]
            )
        elif kind == "bpe":
            tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
                    pre_tokenizers.Split(Regex(rf"{SPACE}(?=\p{{Han}})"), "removed"),
                    pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
                ]
            )
            trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
            tokenizer.train_from_iterator(texts, trainer)
        else:
            raise ValueError(f"the kind of a tokenizer is 'char' or 'bpe', not {kind!r}")
        tokenizer.normalizer = normalizer
        return cls(
            tokenizer_object=tokenizer,
            pad_token=BLANK,
            unk_token=UNKNOWN,
            bos_token=SOS_EOS,
            eos_token=SOS_EOS,
            clean_up_tokenization_spaces=False,
            text_normalization=text_normalization,
        )

    @property
    def is_extendable(self) -> bool:
        """Whether it is one of characters, which others can be added to."""
        return isinstance(self.backend_tokenizer.model, models.WordLevel)

    def extended(self, characters: Iterable[str]) -> "ConformerTokenizer":
        """This vocabulary with `characters` after it; ids stay as they are."""
        vocabulary = self.get_vocab()
        vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(sorted(set(characters) - set(vocabulary)))}
        backend = Tokenizer.from_str(self.backend_tokenizer.to_str())
        backend.model = models.WordLevel(vocabulary, unk_token=self.unk_token)
        roles = {role: getattr(self, role) for role in ("pad_token", "unk_token", "bos_token", "eos_token")}
        return type(self)(
            tokenizer_object=backend,
            **roles,
            clean_up_tokenization_spaces=False,
            text_normalization=self.init_kwargs.get("text_normalization"),
        )

    def normalize(self, text: str) -> str:
        """What a transcript is before it is cut into tokens, and before it is scored."""
        normalizer = self.backend_tokenizer.normalizer
        text = _spell(text, self.init_kwargs.get("text_normalization"))
        return text if normalizer is None else normalizer.normalize_str(text)

    def _encode_plus(self, text: str | list[str], *args: Any, **kwargs: Any) -> BatchEncoding:
        rule = self.init_kwargs.get("text_normalization")
        text = _spell(text, rule) if isinstance(text, str) else [_spell(line, rule) for line in text]
        return super()._encode_plus(text, *args, **kwargs)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **kwargs: Any,
    ) -> str | dict[str, Any]:
        """Text of a frame-by-frame best path.

        Args:
            token_ids: One id a frame; negative ids count as blank.
            skip_special_tokens: Leave `<unk>` out too. Blank and `<sos/eos>` always are.
            group_tokens: Collapse repetitions, as CTC means them; False for labels.
            output_char_offsets, output_word_offsets: Return a dict instead: `text`, and `char_offsets` and
                `word_offsets`, lists of `{"char" or "word", "start_offset", "end_offset"}` in frames, end exclusive.
                A Han character is a word.
        """
        token_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        silent = {self.pad_token_id, self.eos_token_id, self.bos_token_id}
        if skip_special_tokens:
            silent.add(self.unk_token_id)
        offsets, place = [], 0
        runs = itertools.groupby(token_ids) if group_tokens else ((token, [token]) for token in token_ids)
        for token, run in runs:
            length = len(list(run))
            if token >= 0 and token not in silent:
                text = self.convert_ids_to_tokens(token).replace(SPACE, " ")
                offsets.append({"char": text, "start_offset": place, "end_offset": place + length})
            place += length
        text = "".join(offset["char"] for offset in offsets).strip()
        if not (output_char_offsets or output_word_offsets):
            return text
        while offsets and not offsets[0]["char"].strip():
            offsets.pop(0)
        while offsets and not offsets[-1]["char"].strip():
            offsets.pop()
        output = {"text": text}
        if output_char_offsets:
            output["char_offsets"] = offsets
        if output_word_offsets:
            output["word_offsets"] = self._get_word_offsets(offsets)
        return output

    @staticmethod
    def _get_word_offsets(offsets: list[dict], word_delimiter_char: str = " ") -> list[dict]:
        words, word = [], None
        for offset in offsets:
            for character in offset["char"]:
                if character == word_delimiter_char:
                    word = None
                    continue
                is_han = HAN.match(character) is not None
                if word is None or is_han:
                    word = {"word": "", "start_offset": offset["start_offset"]}
                    words.append(word)
                word["word"] += character
                word["end_offset"] = offset["end_offset"]
                if is_han:
                    word = None
        return words


__all__ = ["ConformerTokenizer"]
