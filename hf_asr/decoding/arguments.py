"""Options of decoding that evaluation, transcription and servers share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from .beam import MAX_BEAM_SIZE
from .decoders import DECODERS
from .hotwords import DEFAULT_BOOST, check_boost
from .windows import check_window

DEFAULTS = {
    "decoding": "greedy",
    "beam_size": 10,
    "blank_penalty": 0.0,
    "language_model": None,
    "language_model_weight": 0.5,
    "word_insertion_bonus": None,
    "ctc_weight": 0.5,
    "reverse_weight": None,
}
RESCORING_OPTIONS = ("ctc_weight", "reverse_weight")
BEAM_OPTIONS = tuple(name for name in DEFAULTS if name not in ("decoding", *RESCORING_OPTIONS))

DTYPES = ("float32", "bfloat16", "float16")

# With less, the last window of long speech may be shorter than the shortest input of a model.
MIN_STRIDE_OF_VAD = 0.25  # seconds


@dataclass
class ChunkArguments:
    """Choose the chunks in which a checkpoint encodes that was trained in chunks."""

    chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Encoder frames of a chunk, for a checkpoint that was trained in chunks; -1 is full context. The "
            "checkpoint's own by default."
        },
    )
    num_left_chunks: int | None = field(
        default=None,
        metadata={"help": "Chunks before its own one that a frame sees; -1 for all. The checkpoint's own by default."},
    )

    def __post_init__(self):
        if self.chunk_size is not None and (self.chunk_size == 0 or self.chunk_size < -1):
            raise ValueError(f"chunk_size must be 1 or more, or -1 for full context, not {self.chunk_size}")
        if self.num_left_chunks is not None and self.num_left_chunks < -1:
            raise ValueError(f"num_left_chunks must be 0 or more, or -1 for all, not {self.num_left_chunks}")


@dataclass
class SearchArguments(ChunkArguments):
    """Choose the decoder and its options, and the chunks."""

    decoding: str | None = field(
        default=None,
        metadata={
            "help": f"Decoder of the log-probabilities: {', '.join(DECODERS)}. By default, this and the following "
            f"options are those that hf-asr tune-decoding stored in the checkpoint, else {DEFAULTS['decoding']}."
        },
    )
    beam_size: int | None = field(
        default=None,
        metadata={
            "help": "Hypotheses that a beam search keeps, and tokens that it tries in each frame; "
            f"{DEFAULTS['beam_size']} by default."
        },
    )
    blank_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Subtracted from the log-probability of blank in a beam search: higher for fewer deletions, lower "
            f"for fewer insertions; {DEFAULTS['blank_penalty']:g} by default."
        },
    )
    language_model: str | None = field(
        default=None,
        metadata={
            "help": "N-gram language model of a beam search, an ARPA file (.gz, too); see hf-asr lm. 'none' for no "
            "language model, although the checkpoint has one."
        },
    )
    language_model_weight: float | None = field(
        default=None,
        metadata={
            "help": "Factor of the logarithms of the language model's probabilities; "
            f"{DEFAULTS['language_model_weight']:g} by default."
        },
    )
    word_insertion_bonus: float | None = field(
        default=None,
        metadata={
            "help": "Added to the logarithm of a hypothesis for each unit of the language model, a word or a "
            "character; by default language_model_weight times the entropy of the unigrams, 2 to 4 for most models."
        },
    )
    ctc_weight: float | None = field(
        default=None,
        metadata={
            "help": "Factor of the beam search's score in attention_rescoring, which is added to the attention "
            f"decoder's; {DEFAULTS['ctc_weight']:g} by default."
        },
    )
    reverse_weight: float | None = field(
        default=None,
        metadata={
            "help": "Share of the right-to-left decoder in attention_rescoring, for a checkpoint that has one. The "
            "checkpoint's own by default."
        },
    )
    lexicon: str | None = field(
        default=None,
        metadata={
            "help": "Words and phrases, the only ones that a beam search writes, in any order: 'a,b', or a file (.txt "
            "or .tsv) with one in a line."
        },
    )
    hotwords: str | None = field(
        default=None,
        metadata={
            "help": "Phrases that a beam search prefers: 'a,b', or a file (.txt or .tsv) with one in a line, which a "
            "tab and its own boost can follow."
        },
    )
    hotword_boost: float = field(
        default=DEFAULT_BOOST,
        metadata={"help": "What each token of a hotword adds to the logarithm of a hypothesis; below 0 suppresses it."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.decoding is not None and self.decoding not in DECODERS:
            raise ValueError(f"decoding must be one of {', '.join(DECODERS)}, not {self.decoding!r}")
        if self.beam_size is not None and not 1 <= self.beam_size <= MAX_BEAM_SIZE:
            raise ValueError(f"beam_size must be from 1 to {MAX_BEAM_SIZE}, not {self.beam_size}")
        for name in ("blank_penalty", "language_model_weight", "word_insertion_bonus", "ctc_weight"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value}")
        for name in ("language_model_weight", "ctc_weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if self.reverse_weight is not None and not 0 <= self.reverse_weight <= 1:
            raise ValueError(f"reverse_weight must be from 0 to 1, not {self.reverse_weight}")
        for name in ("language_model", "lexicon", "hotwords"):
            value = getattr(self, name)
            if not isinstance(value, str | Path | None):
                phrases = "" if name == "language_model" else ", or phrases in one text, 'a,b'"
                raise ValueError(f"{name} must be the path of a file{phrases}, not {value!r}")
        check_boost(self.hotword_boost)

    def resolved(self, tuned: Mapping[str, Any]) -> Self:
        """Return the arguments with a value for each option of the decoder: what is given, tuned, or the default.

        Args:
            tuned: Options of a checkpoint, from `read_tuned`; a greedy decoder that is asked for uses none of them.

        Raises:
            ValueError: An option is given that the decoder does not use, or one of a language model without one.
        """
        decoding = self.decoding or tuned.get("decoding") or DEFAULTS["decoding"]
        unused = {name: "attention_rescoring" for name in RESCORING_OPTIONS if decoding != "attention_rescoring"}
        if decoding != "beam":
            unused["lexicon"] = "beam"  # segments of rescoring may end inside an entry
        if decoding in ("greedy", "attention"):
            unused |= {name: "beam" for name in (*BEAM_OPTIONS, "hotwords")}
        if decoding == "attention":
            del unused["beam_size"]
        for name, owner in unused.items():
            nothing = "none" if name == "language_model" else None
            if getattr(self, name) not in (None, DEFAULTS.get(name), nothing):
                raise ValueError(f"{name} is not an option of {decoding} decoding: give --decoding {owner}")
        tuned = {name: value for name, value in tuned.items() if name not in unused}
        names = (*BEAM_OPTIONS, *RESCORING_OPTIONS)
        values = {name: getattr(self, name) for name in names}
        values = {name: tuned.get(name, DEFAULTS[name]) if value is None else value for name, value in values.items()}
        if values["language_model"] == "none":
            values["language_model"] = None
        if values["language_model"] is None:
            for name in ("language_model_weight", "word_insertion_bonus"):
                if getattr(self, name) not in (None, DEFAULTS[name]):
                    raise ValueError(f"{name} is an option of a language model: give --language_model")
                values[name] = DEFAULTS[name]
        return replace(self, decoding=decoding, **values)


@dataclass
class TextArguments(SearchArguments):
    """Choose the decoder, the chunks, the precision, and the form of the text."""

    dtype: str = field(
        default="float32",
        metadata={
            "help": f"Precision of a checkpoint's weights and of the computation: {', '.join(DTYPES)}. bfloat16 is "
            "faster on GPUs and on CPUs with AMX; an exported graph has its own precision."
        },
    )
    itn: bool = field(
        default=False,
        metadata={
            "help": "Write numbers, dates and amounts of Mandarin and English with digits, inverse text normalization "
            "(pip install 'hf_asr[itn]')."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")


@dataclass
class DecodingArguments(TextArguments):
    """Choose the decoder, the chunks, and the windows over long recordings."""

    chunk_length_s: float = field(
        default=30.0,
        metadata={
            "help": "Length of the windows over longer recordings, in seconds; more than twice the stride, because "
            "they have context of one stride at each end."
        },
    )
    stride_length_s: float = field(
        default=3.0, metadata={"help": "Context at each end of a window that is computed and not used, in seconds."}
    )
    vad: bool = field(
        default=False,
        metadata={
            "help": "Split recordings that are longer than a window at pauses, which a voice activity detector finds "
            "(pip install 'hf_asr[vad]')."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Encode chunk by chunk through the cache, as live audio is encoded. The text is the same as "
            "without, where one pass encodes all chunks."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_window(chunk_seconds=self.chunk_length_s, stride_seconds=self.stride_length_s)
        if self.vad and self.streaming:
            raise ValueError("vad splits recordings and streaming does not: give one of them")
        if self.vad and self.stride_length_s < MIN_STRIDE_OF_VAD:
            raise ValueError(
                f"vad needs a stride_length_s of {MIN_STRIDE_OF_VAD} s or more, not {self.stride_length_s}"
            )
