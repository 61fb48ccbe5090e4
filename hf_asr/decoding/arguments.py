"""Options of decoding that evaluation, transcription and servers share."""

from dataclasses import dataclass, field

from .decoders import DECODERS
from .windows import check_window


@dataclass
class DecodingArguments:
    """Choose the decoder and the windows over long recordings."""

    decoding: str = field(
        default="greedy", metadata={"help": f"Decoder of the log-probabilities: {', '.join(DECODERS)}."}
    )
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

    def __post_init__(self):
        if self.decoding not in DECODERS:
            raise ValueError(f"decoding must be one of {', '.join(DECODERS)}, not {self.decoding!r}")
        check_window(chunk_seconds=self.chunk_length_s, stride_seconds=self.stride_length_s)
