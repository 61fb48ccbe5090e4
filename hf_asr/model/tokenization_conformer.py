"""Characters or BPE over normalised transcripts; decoding collapses CTC (Graves et al. 2006) and tells times."""

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from .spelling_conformer import HAN, has_number, spell_numbers

BLANK, UNKNOWN, SOS_EOS = "<blk>", "<unk>", "<sos/eos>"
SPACE = "▁"


def _replace(pattern: str, by: str) -> normalizers.Normalizer:
    return normalizers.Replace(Regex(pattern), by)


# Scripts in which an invisible joiner or non-joiner is part of a word's spelling: می‌خواهم, ශ්‍රී
_JOINED = (
    "".join(
        rf"\p{{{script}}}"
        for script in (
            *("Arabic", "Syriac", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu"),
            *("Kannada", "Malayalam", "Sinhala", "Khmer", "Myanmar", "Mongolian"),
        )
    )
    + r"&&[\p{L}\p{M}]"  # without their signs, such as ٪
)
_JOINERS = r"\u180e\u200c\u200d"
VIRAMAS = r"\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"  # no vowel follows the consonant before it

_NOTHING_INVISIBLE = [
    # Soft hyphens, zero-width spaces, marks of direction, variation selectors, the keycap of 1️⃣
    _replace(rf"[\p{{Default_Ignorable_Code_Point}}\u20dd-\u20e4&&[^{_JOINERS}\u180b-\u180d\u180f]]", ""),
    normalizers.NFC(),  # orders the marks before a joiner once and for all
    # Between letters of these scripts, and after a virama at a word's end, where it makes another letter of the last:
    # Malayalam's chillus, Bengali's khanda ta
    _replace(
        rf"(?<![{_JOINED}])[{_JOINERS}]+"
        rf"|(?!(?<=[\p{{L}}&&[{_JOINED}]][{VIRAMAS}])\u200d)[{_JOINERS}]+(?![{_JOINED}])",
        "",
    ),
]
# One spelling of what looks the same, and nothing invisible: no rule goes without.
_ONE_SPELLING = [
    # NFKC would make a space and a mark of a spacing accent, and one number of 10² or ①②.
    _replace("´", "'"),
    _replace("゛", "\u3099"),
    _replace("゜", "\u309a"),
    _replace(r"(?<=\p{N})(?=\p{No})|(?<=\p{No})(?=\p{N})|(?<=№)(?=\p{N})", " "),
    *_NOTHING_INVISIBLE,
    normalizers.NFKC(),
    # Of these vowels of Thai and Lao NFKC makes two; nobody writes them so.
    normalizers.Replace("\u0e4d\u0e32", "\u0e33"),
    normalizers.Replace("\u0ecd\u0eb2", "\u0eb3"),
]
# [laughter], <noise>, [background noise]: a word or two; not what stands between two signs of a < b > c.
_ANNOTATION = _replace(r"\[\s*[^\s\[\]]+(?:\s+[^\s\[\]]+)?\s*\]|<[/|*+]?\p{L}[^\s<>]*(?:\s+[^\s<>]+)?>", " ")
_NO_STRAY_MARKS = _replace(rf"(?<![^\s\p{{Cc}}{SPACE}])[\p{{M}}{_JOINERS}]+", "")
_NO_ARMENIAN_SIGNS = _replace("[՛՜՞՟]", "")  # which stand over a vowel inside the word
_COLLAPSE_SPACES = [
    normalizers.NFC(),
    _replace(rf"[\s\p{{Cc}}{SPACE}]+", " "),
    normalizers.Strip(),
]
_WORDS_ONLY = [
    _ANNOTATION,
    normalizers.Lowercase(),
    _replace("i\u0307+", "i"),  # what Unicode's lower case makes of İ
    _replace("[’‘‛`՚]", "'"),
    _NO_ARMENIAN_SIGNS,
    _replace("(?<=l)[·•‧∙⋅](?=l)|(?<=[ns])[·•‧∙⋅](?=h)", "·"),  # Catalan's l·l, Occitan's n·h
    # Letters, their marks, digits and what a word has inside it stay; everything else separates words. Myanmar's ၌၍၎၏
    # are words; ་ ends a syllable of Tibetan, ׳ makes another consonant of a Hebrew letter, ״ stands in abbreviations.
    _replace(rf"[^\p{{L}}\p{{M}}\p{{N}}{_JOINERS}၌-၏'·་׳״]", " "),
    _replace(rf"(?<![\p{{L}}\p{{M}}\p{{N}}{_JOINERS}])[\p{{M}}{_JOINERS}]+", ""),  # marks on no letter
    _replace(
        r"·(?!(?<=l·)l)(?!(?<=[ns]·)h)"
        r"|(?<![\p{Tibetan}&&[\p{L}\p{M}་]])(?>་+)|(?>་+)(?![\p{Tibetan}&&\p{L}])"
        r"|(?<![\p{Hebrew}&&[\p{L}\p{M}]])[׳״]|״(?![\p{Hebrew}&&[\p{L}\p{M}]])",
        " ",
    ),
    _replace(r"(?<![\p{L}\p{M}\p{N}])'|'(?![\p{L}\p{N}])", " "),
    _replace(r"(?<=[\p{Greek}\p{Mn}])σ(?![\p{Greek}\p{M}'])", "ς"),  # lower case makes no ς of the last Σ of a word
]
NO_SPACES_AT_HAN = _replace(r"(?<=\p{Han})\s+|\s+(?=\p{Han})", "")
# Of Latin letters alone: in other scripts a mark makes another letter or sound (й, が, कि).
_NO_ACCENTS = [normalizers.NFD(), _replace(rf"(?<=\p{{Latin}})\p{{Mn}}[\p{{Mn}}{_JOINERS}]*", ""), normalizers.NFC()]
_NO_ENGLISH_FILLERS = _replace(r"(?<![\p{L}\p{M}\p{N}'·])(uh+|um+|h+m+|m+h+m+|mm+)(?![\p{L}\p{M}\p{N}'·])", " ")
_NO_MANDARIN_FILLERS = normalizers.Replace("呃", " ")

# What each setting of `text_normalization` does to a transcript, in training and in scoring alike, after the numbers
# were spelled in the language of the rule (`en`, `zh` and `zh-en`).
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
# What may stand between the digits of a number, and what is taken out whole
_BEFORE_NUMBERS = normalizers.Sequence([*_NOTHING_INVISIBLE, _NO_ARMENIAN_SIGNS, _ANNOTATION])


def text_normalizer(name: str) -> normalizers.Normalizer:
    """The rule called `name`.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TEXT_NORMALIZATIONS:
        raise ValueError(f"text_normalization is one of {', '.join(TEXT_NORMALIZATIONS)}, not {name!r}")
    return normalizers.Sequence(TEXT_NORMALIZATIONS[name])


def _spell(text: str, rule: str | None) -> str:
    if rule in SPELLS_NUMBERS and has_number(text):
        return spell_numbers(_BEFORE_NUMBERS.normalize_str(text), language=rule)
    return text


def normalize_text(text: str, *, rule: str) -> str:
    """What the setting `text_normalization: rule` makes of a transcript.

    Raises:
        ValueError: There is no such rule.
    """
    return text_normalizer(rule).normalize_str(_spell(text, rule))


def splits_special_tokens(tokens: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    """Cuts a transcript that spells a special token so that no model takes it for one; Unigram models would."""
    rest = "|".join(rf"(?<={re.escape(token[0])}){re.escape(token[1:])}" for token in tokens)
    return pre_tokenizers.Split(Regex(rest), "isolated")


def character_backend(vocabulary: dict[str, int], *, unknown: str) -> Tokenizer:
    """Return a backend whose tokens are single characters, the space written as `▁`; it has no normaliser yet."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
            pre_tokenizers.Split(Regex("."), "isolated"),
        ]
    )
    return tokenizer


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
            ValueError: Another kind or normalisation; no text; a `vocab_size` that the characters alone exceed.
        """
        normalizer = text_normalizer(text_normalization)
        texts = [normalize_text(text, rule=text_normalization) for text in texts]
        if not any(texts):
            raise ValueError("no vocabulary can be learnt: every transcript is empty after normalisation")
        special = [BLANK, UNKNOWN, SOS_EOS]
        if kind == "char":
            characters = sorted({character.replace(" ", SPACE) for text in texts for character in text})
            vocabulary = {token: i for i, token in enumerate([*special, *characters])}
            tokenizer = character_backend(vocabulary, unknown=UNKNOWN)
        elif kind == "bpe":
            least = len(special) + len({SPACE}.union(*texts) - {" "})
            if vocab_size < least:
                raise ValueError(
                    f"a bpe vocabulary of {vocab_size} has no room for the characters of the transcripts: give "
                    f"--bpe_vocab_size {least} or more, or --tokenizer char"
                )
            tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False),
                    # The sign before the first word, which a Han character does without; real spaces stay.
                    pre_tokenizers.Split(Regex(rf"\A{SPACE}(?=\p{{Han}})"), "removed"),
                    pre_tokenizers.Split(SPACE, "merged_with_next"),
                    pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
                    splits_special_tokens(special),  # merges would learn them from transcripts that hold some
                ]
            )
            trainer = trainers.BpeTrainer(
                vocab_size=vocab_size, special_tokens=special, initial_alphabet=[SPACE], show_progress=False
            )
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

    def extended(self, characters: Iterable[str]) -> "ConformerTokenizer":
        """This vocabulary with `characters` after it; ids and pieces stay as they are."""
        vocabulary = self.get_vocab()
        first = max(vocabulary.values()) + 1
        added = {token: first + i for i, token in enumerate(sorted(set(characters) - set(vocabulary)))}
        backend = json.loads(self.backend_tokenizer.to_str())
        model = backend["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = vocabulary | added
        else:  # Unigram: pairs of token and score, in the order of their ids
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
        """What a transcript is before it is cut into tokens, and before it is scored."""
        normalizer = self.backend_tokenizer.normalizer
        text = self._prepare(text)
        return text if normalizer is None else normalizer.normalize_str(text)

    def _prepare(self, text: str) -> str:
        """What is done before the backend's normaliser, which can neither count nor make capitals."""
        if self.init_kwargs.get("in_capitals"):  # WeNet's models of BPE
            text = text.upper()
        return _spell(text, self.init_kwargs.get("text_normalization"))

    def _encode_plus(self, text: str | list[str], *args: Any, **kwargs: Any) -> BatchEncoding:
        text = self._prepare(text) if isinstance(text, str) else [self._prepare(line) for line in text]
        # Special tokens are the model's. In a transcript `<unk>` is an annotation, not a label, and `<blk>` no blank.
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
