"""Options of decoding that evaluation, transcription and servers share."""

from dataclasses import dataclass, field

from .decoders import DECODERS
from .windows import check_window


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
class DecodingArguments(ChunkArguments):
    """Choose the decoder, the chunks, and the windows over long recordings."""

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
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Encode chunk by chunk through the cache, as live audio is encoded. The text is the same as "
            "without, where one pass encodes all chunks."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.decoding not in DECODERS:
            raise ValueError(f"decoding must be one of {', '.join(DECODERS)}, not {self.decoding!r}")
        check_window(chunk_seconds=self.chunk_length_s, stride_seconds=self.stride_length_s)
