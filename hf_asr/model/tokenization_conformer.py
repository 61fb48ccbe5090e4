"""The tokenizer: text normalisation, characters or BPE, and decoding of CTC paths (Graves et al. 2006) with times.

A rule of normalisation is a list of steps of the tokenizers library, so it is saved with the tokenizer and runs in its
Rust code. Only the spelling of numbers (`spelling_conformer.py`) needs Python. Every rule is idempotent: what is
normalised already stays the same.
"""

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from .spelling_conformer import HAN, has_number, spell_numbers

SPECIAL_TOKENS = BLANK, UNKNOWN, SOS_EOS = "<blk>", "<unk>", "<sos/eos>"
SPACE = "▁"


def _replace(pattern: str, by: str) -> normalizers.Normalizer:
    """Return a step that replaces all matches of a regular expression (Oniguruma's syntax: `&&` intersects classes)."""
    return normalizers.Replace(Regex(pattern), by)


# Part of a character class: the letters and marks of scripts in which an invisible joiner or non-joiner belongs to a
# word's spelling, as in می‌خواهم and ශ්‍රී.
_JOINED = (
    "".join(
        rf"\p{{{script}}}"
        for script in (
            *("Arabic", "Syriac", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu"),
            *("Kannada", "Malayalam", "Sinhala", "Khmer", "Myanmar", "Mongolian"),
        )
    )
    + r"&&[\p{L}\p{M}]"  # not their other signs, such as ٪
)
_JOINERS = r"\u180e\u200c\u200d"  # Mongolian vowel separator, zero-width non-joiner, zero-width joiner
# Signs that remove the vowel of the previous consonant.
VIRAMAS = r"\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"

_NOTHING_INVISIBLE = [
    # Remove soft hyphens, zero-width spaces, direction marks, variation selectors, and the keycap of 1️⃣.
    _replace(rf"[\p{{Default_Ignorable_Code_Point}}\u20dd-\u20e4&&[^{_JOINERS}\u180b-\u180d\u180f]]", ""),
    normalizers.NFC(),  # a fixed order of the marks before a joiner, so that the next step finds the same ones again
    # Keep joiners only between letters of those scripts, and a zero-width joiner after a virama at the end of a word,
    # where it changes the last letter (Malayalam's chillus, Bengali's khanda ta). Remove all other joiners.
    _replace(
        rf"(?<![{_JOINED}])[{_JOINERS}]+"
        rf"|(?!(?<=[\p{{L}}&&[{_JOINED}]][{VIRAMAS}])\u200d)[{_JOINERS}]+(?![{_JOINED}])",
        "",
    ),
]
# The first steps of every rule: one spelling for characters that look the same, and no invisible characters.
_ONE_SPELLING = [
    # Before NFKC, which would turn ´ and ゛ into a space and a mark, and would join 10² to 102 and ①② to 12.
    _replace("´", "'"),
    _replace("゛", "\u3099"),
    _replace("゜", "\u309a"),
    _replace(r"(?<=\p{N})(?=\p{No})|(?<=\p{No})(?=\p{N})|(?<=№)(?=\p{N})", " "),
    *_NOTHING_INVISIBLE,
    normalizers.NFKC(),
    # NFKC splits a vowel of Thai (ำ) and Lao (ຳ) in two, which is not how they are written. Join them again.
    normalizers.Replace("\u0e4d\u0e32", "\u0e33"),
    normalizers.Replace("\u0ecd\u0eb2", "\u0eb3"),
]
# Remove annotations of one or two words: [laughter], <noise>, [background noise]. In a < b > c, b is no annotation.
_ANNOTATION = _replace(r"\[\s*[^\s\[\]]+(?:\s+[^\s\[\]]+)?\s*\]|<[/|*+]?\p{L}[^\s<>]*(?:\s+[^\s<>]+)?>", " ")
# Remove marks and joiners at the beginning of a word: there is no letter to which they belong.
_NO_STRAY_MARKS = _replace(rf"(?<![^\s\p{{Cc}}{SPACE}])[\p{{M}}{_JOINERS}]+", "")
_NO_ARMENIAN_SIGNS = _replace("[՛՜՞՟]", "")  # punctuation that is written inside a word, above a vowel
_COLLAPSE_SPACES = [
    normalizers.NFC(),
    _replace(rf"[\s\p{{Cc}}{SPACE}]+", " "),
    normalizers.Strip(),
]
# Words in lower case, without punctuation.
_WORDS_ONLY = [
    _ANNOTATION,
    normalizers.Lowercase(),
    _replace("i\u0307+", "i"),  # the lower case of İ, which Unicode writes with a combining dot
    _replace("[’‘‛`՚]", "'"),
    _NO_ARMENIAN_SIGNS,
    _replace("(?<=l)[·•‧∙⋅](?=l)|(?<=[ns])[·•‧∙⋅](?=h)", "·"),  # inside Catalan's l·l and Occitan's n·h
    # Keep letters, their marks, digits and the signs that can be part of a word. Everything else separates words.
    # Myanmar's ၌၍၎၏ are words, ་ ends a syllable of Tibetan, ׳ changes the sound of a Hebrew letter, and ״ is part of
    # Hebrew abbreviations.
    _replace(rf"[^\p{{L}}\p{{M}}\p{{N}}{_JOINERS}၌-၏'·་׳״]", " "),
    _replace(rf"(?<![\p{{L}}\p{{M}}\p{{N}}{_JOINERS}])[\p{{M}}{_JOINERS}]+", ""),  # marks without a letter
    # Remove ·, ་, ׳ and ״ where they are not part of a word in this way, and apostrophes at the edges of a word.
    _replace(
        r"·(?!(?<=l·)l)(?!(?<=[ns]·)h)"
        r"|(?<![\p{Tibetan}&&[\p{L}\p{M}་]])(?>་+)|(?>་+)(?![\p{Tibetan}&&\p{L}])"
        r"|(?<![\p{Hebrew}&&[\p{L}\p{M}]])[׳״]|״(?![\p{Hebrew}&&[\p{L}\p{M}]])",
        " ",
    ),
    _replace(r"(?<![\p{L}\p{M}\p{N}])'|'(?![\p{L}\p{N}])", " "),
    _replace(r"(?<=[\p{Greek}\p{Mn}])σ(?![\p{Greek}\p{M}'])", "ς"),  # Lowercase() writes a final Σ as σ
]
# Remove spaces next to Han characters: they do not separate words there.
NO_SPACES_AT_HAN = _replace(r"(?<=\p{Han})\s+|\s+(?=\p{Han})", "")
# Remove the accents of Latin letters only: in other scripts a mark makes a different letter or sound (й, が, कि).
_NO_ACCENTS = [normalizers.NFD(), _replace(rf"(?<=\p{{Latin}})\p{{Mn}}[\p{{Mn}}{_JOINERS}]*", ""), normalizers.NFC()]
_NO_ENGLISH_FILLERS = _replace(r"(?<![\p{L}\p{M}\p{N}'·])(uh+|um+|h+m+|m+h+m+|mm+)(?![\p{L}\p{M}\p{N}'·])", " ")
_NO_MANDARIN_FILLERS = normalizers.Replace("呃", " ")

# The steps of each rule, by the name that the option `text_normalization` takes. Training and scoring apply the same
# rule. `en`, `zh` and `zh-en` spell numbers in their language before these steps.
TEXT_NORMALIZATIONS: dict[str, list] = {
    "none": [*_ONE_SPELLING, _NO_STRAY_MARKS, *_COLLAPSE_SPACES],
    "basic": [*_ONE_SPELLING, *_WORDS_ONLY, *_COLLAPSE_SPACES],
    "en": [*_ONE_SPELLING, *_WORDS_ONLY, *_NO_ACCENTS, _NO_ENGLISH_FILLERS, *_COLLAPSE_SPACES],
    "zh": [*_ONE_SPELLING, _NO_MANDARIN_FILLERS, *_WORDS_ONLY, NO_SPACES_AT_HAN, *_COLLAPSE_SPACES],
    "zh-en": [
        *_ONE_SPELLING,
        _NO_MANDARIN_FILLERS,
        *_WORDS_ONLY,
        *_NO_ACCENTS,
        _NO_ENGLISH_FILLERS,
        NO_SPACES_AT_HAN,
        *_COLLAPSE_SPACES,
    ],
}
SPELLS_NUMBERS = ("en", "zh", "zh-en")
# Applied before numbers are spelled. Invisible characters and signs could be inside a number, and a number inside an
# annotation is not spoken.
_BEFORE_NUMBERS = normalizers.Sequence([*_NOTHING_INVISIBLE, _NO_ARMENIAN_SIGNS, _ANNOTATION])


def text_normalizer(name: str) -> normalizers.Normalizer:
    """Return the steps of the rule `name`, without its spelling of numbers.

    Raises:
        ValueError: There is no rule of this name.
    """
    if name not in TEXT_NORMALIZATIONS:
        raise ValueError(f"text_normalization must be one of {', '.join(TEXT_NORMALIZATIONS)}, not {name!r}")
    return normalizers.Sequence(TEXT_NORMALIZATIONS[name])


def _spell(text: str, rule: str | None) -> str:
    """Return the text with its numbers spelled, if the rule spells numbers."""
    if rule in SPELLS_NUMBERS and has_number(text):
        return spell_numbers(_BEFORE_NUMBERS.normalize_str(text), language=rule)
    return text


def normalize_text(text: str, *, rule: str) -> str:
    """Return a transcript normalised by a rule, numbers included.

    Args:
        rule: A key of `TEXT_NORMALIZATIONS`.

    Raises:
        ValueError: There is no rule of this name.
    """
    return text_normalizer(rule).normalize_str(_spell(text, rule))


def splits_special_tokens(tokens: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    """Return a step that cuts after the first character of a special token that a transcript contains as text.

    Without the cut, Unigram models would encode `<unk>` in a transcript as the special token, and BPE could learn it.
    """
    rest = "|".join(rf"(?<={re.escape(token[0])}){re.escape(token[1:])}" for token in tokens)
    return pre_tokenizers.Split(Regex(rest), "isolated")


def character_backend(vocabulary: dict[str, int], *, unknown: str) -> Tokenizer:
    """Return a tokenizer of the tokenizers library whose tokens are single characters; it does not normalise text.

    Args:
        vocabulary: {token: id}, with `▁` for the space.
        unknown: The token of characters that are not in the vocabulary.
    """
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
            pre_tokenizers.Split(Regex("."), "isolated"),
        ]
    )
    return tokenizer


def bpe_backend(texts: list[str], *, vocab_size: int) -> Tokenizer:
    """Learn byte-pair encoding (Sennrich et al. 2016) and return it; it does not normalise text.

    Tokens can begin with a space (`▁`), and a Han character is always a token alone.

    Args:
        texts: Normalised transcripts.
        vocab_size: Largest number of tokens, including the special ones.

    Raises:
        ValueError: The special tokens and the characters of the transcripts alone are more than `vocab_size`.
    """
    least = len(SPECIAL_TOKENS) + len({SPACE}.union(*texts) - {" "})
    if vocab_size < least:
        raise ValueError(
            f"a bpe vocabulary of {vocab_size} tokens has no room for the characters of the transcripts: set "
            f"bpe_vocab_size to {least} or more, or the tokenizer to char"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False),
            # Metaspace adds a space before the first word. A Han character has none; spaces of the text stay.
            pre_tokenizers.Split(Regex(rf"\A{SPACE}(?=\p{{Han}})"), "removed"),
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            splits_special_tokens(SPECIAL_TOKENS),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=[SPACE], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class ConformerTokenizer(PreTrainedTokenizerFast):
    """Turn transcripts into token ids, and CTC paths into text and times.

    Id 0 is the CTC blank (also the padding), 1 the unknown token, 2 the decoder's `<sos/eos>`; imported models keep
    their own ids. The text normalisation is part of the saved tokenizer; `normalize` applies it alone.
    """

    # No __init__ here: for a class with an __init__, transformers 5 rebuilds the backend without normaliser and splits.
    model_input_names = ["input_ids"]
    replace_word_delimiter_char = " "

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], *, kind: str = "char", text_normalization: str = "basic", vocab_size: int = 1000
    ) -> "ConformerTokenizer":
        """Learn a vocabulary from transcripts and return a tokenizer.

        Args:
            texts: Transcripts, not normalised.
            kind: `"char"`, one token for each character; or `"bpe"`, at most `vocab_size` tokens, in which a Han
                character is always a token alone.
            text_normalization: A key of `TEXT_NORMALIZATIONS`.
            vocab_size: Largest number of tokens, for `"bpe"` only.

        Raises:
            ValueError: The kind or the normalisation is unknown, all transcripts are empty, or `vocab_size` is smaller
                than the number of characters.
        """
        normalizer = text_normalizer(text_normalization)
        texts = [normalize_text(text, rule=text_normalization) for text in texts]
        if not any(texts):
            raise ValueError("cannot learn a vocabulary: every transcript is empty after normalisation")
        if kind == "char":
            characters = sorted({character.replace(" ", SPACE) for text in texts for character in text})
            vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}
            tokenizer = character_backend(vocabulary, unknown=UNKNOWN)
        elif kind == "bpe":
            tokenizer = bpe_backend(texts, vocab_size=vocab_size)
        else:
            raise ValueError(f"the kind of a tokenizer must be 'char' or 'bpe', not {kind!r}")
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

    def extended(self, characters: Iterable[str]) -> "ConformerTokenizer":
        """Return a tokenizer with `characters` added at the end of the vocabulary; the ids of the old tokens stay.

        Characters that are in the vocabulary already are ignored.
        """
        vocabulary = self.get_vocab()
        first = max(vocabulary.values()) + 1
        added = {token: first + i for i, token in enumerate(sorted(set(characters) - set(vocabulary)))}
        backend = json.loads(self.backend_tokenizer.to_str())
        model = backend["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = vocabulary | added
        else:  # Unigram: a list of [token, score] in the order of the ids; new tokens get the lowest score
            names = {i: token for token, i in (vocabulary | added).items()}
            lowest = min(score for _, score in model["vocab"])
            model["vocab"] += [[names[i], lowest] for i in range(len(model["vocab"]), len(names))]
        roles = {role: getattr(self, role) for role in ("pad_token", "unk_token", "bos_token", "eos_token")}
        ours = {
            name: self.init_kwargs[name] for name in ("text_normalization", "in_capitals") if name in self.init_kwargs
        }
        return type(self)(
            tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
            **roles,
            clean_up_tokenization_spaces=False,
            **ours,
        )

    def normalize(self, text: str) -> str:
        """Return a transcript normalised by this tokenizer's rule, as it is before tokenisation and before scoring."""
        normalizer = self.backend_tokenizer.normalizer
        text = self._prepare(text)
        return text if normalizer is None else normalizer.normalize_str(text)

    def _prepare(self, text: str) -> str:
        """Spell numbers and change to capitals, which a normaliser of the tokenizers library cannot do."""
        if self.init_kwargs.get("in_capitals"):  # imported WeNet models with BPE
            text = text.upper()
        return _spell(text, self.init_kwargs.get("text_normalization"))

    def _encode_plus(self, text: str | list[str], *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encode transcripts for `__call__`, which transformers implements with this method."""
        text = self._prepare(text) if isinstance(text, str) else [self._prepare(line) for line in text]
        # In a transcript special tokens are text: `<unk>` is an annotation, and `<blk>` is not the CTC blank.
        kwargs["split_special_tokens"] = True
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
        """Return the text of a CTC path; transformers implements `decode` and `batch_decode` with this method.

        With `output_char_offsets` or `output_word_offsets` the result is a dict of `text` and the requested
        `char_offsets` and `word_offsets`: lists of `{"char" or "word", "start_offset", "end_offset"}`. The offsets are
        frames of logits, the end is exclusive. A Han character is a word.

        Args:
            token_ids: The token id of each frame; ids that are not in the vocabulary count as blank.
            skip_special_tokens: Leave out `<unk>`. Blank and `<sos/eos>` are always left out.
            group_tokens: Merge equal tokens of neighbouring frames, as CTC does. False for labels, which have one id
                for each token.
            output_char_offsets: Return the offsets of characters (of tokens, for BPE).
            output_word_offsets: Return the offsets of words.
        """
        token_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        # Tokens without text. They are removed after the merging, because a blank separates two equal tokens.
        silent = {self.pad_token_id, self.eos_token_id, self.bos_token_id}
        if skip_special_tokens:
            silent.add(self.unk_token_id)
        offsets, place = [], 0
        runs = itertools.groupby(token_ids) if group_tokens else ((token, [token]) for token in token_ids)
        for token, run in runs:
            length = len(list(run))
            text = self.convert_ids_to_tokens(token) if token >= 0 and token not in silent else None
            if text is not None:  # a model may have more tokens, to which its vocabulary is padded
                text = text.replace(SPACE, " ")
                offsets.append({"char": text, "start_offset": place, "end_offset": place + length})
            place += length
        text = "".join(offset["char"] for offset in offsets).strip()
        if not (output_char_offsets or output_word_offsets):
            return text
        # The text has no spaces at its ends, so the offsets have none either.
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
        """Return the words of `char_offsets`: cut at spaces, and before and after each Han character."""
        words, word = [], None  # `word` is the unfinished last word; None at the beginning of a new one
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
