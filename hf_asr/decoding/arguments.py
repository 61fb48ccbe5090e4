"""Options of decoding that evaluation, transcription and servers share."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from .greedy import GreedyDecoder
from .transcript import Decoder
from .windows import check_window

DECODERS = ("greedy",)


@dataclass
class DecodingArguments:
    decoding: str = field(default="greedy", metadata={"help": "Decoder of the log-probabilities: greedy."})
    chunk_length_s: float = field(
        default=30.0,
        metadata={
            "help": "Length of the windows over longer recordings, in seconds; more than twice the stride, because "
            "windows overlap by the stride at each end."
        },
    )
    stride_length_s: float = field(
        default=3.0, metadata={"help": "Context at each end of a window that is computed and not used, in seconds."}
    )

    def __post_init__(self):
        if self.decoding not in DECODERS:
            raise ValueError(f"decoding must be one of {', '.join(DECODERS)}, not {self.decoding!r}")
        check_window(chunk_seconds=self.chunk_length_s, stride_seconds=self.stride_length_s)


def build_decoder(arguments: DecodingArguments, tokenizer: PreTrainedTokenizerBase) -> Decoder:
    """Return the decoder that the arguments name."""
    return GreedyDecoder(tokenizer.pad_token_id)
