"""Options of the REST server, and of the live streams that the demo serves too."""

import os
import re
from dataclasses import dataclass, field, fields


@dataclass
class StreamOptions:
    """Limits of live streams; each field is an argument of the command `serve` and of the demo."""

    max_streams: int = field(default=200, metadata={"help": "Maximum number of live streams at the same time."})
    max_stream_seconds: float = field(
        default=36000.0, metadata={"help": "Maximum duration of a live stream in seconds of audio."}
    )
    stream_timeout_s: float = field(
        default=30.0,
        metadata={
            "help": "Maximum time without audio from the client of a live stream, and for a result to be sent to it, "
            "in seconds."
        },
    )

    def __post_init__(self):
        for option in fields(self):  # those of a subclass too
            value = getattr(self, option.name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{option.name} must be above 0: {value:g}")


@dataclass
class ServerOptions(StreamOptions):
    """Limits of requests and access to the server; each field is an argument of the command `serve`.

    With the defaults, a recording of 1200 s is accepted by a machine that is six times as fast as real time. Its
    windows overlap, so it costs 1500 s of audio, which that machine computes in 250 s. A client may use half of the
    queue, and a request is accepted if it needs at most half of the time limit: 300 s. Slower machines accept shorter
    recordings only.
    """

    max_upload_mb: float = field(
        default=50.0, metadata={"help": "Maximum size of an uploaded file in MB (10^6 bytes)."}
    )
    max_audio_seconds: float = field(
        default=1200.0,
        metadata={
            "help": "Maximum duration of a recording in seconds. The queue (max_queue_seconds) should hold several."
        },
    )
    upload_timeout_s: float = field(default=60.0, metadata={"help": "Maximum time for an upload in seconds."})
    transcription_timeout_s: float = field(
        default=1200.0,
        metadata={
            "help": "Maximum time from the end of the upload to the transcript in seconds. A request that would need "
            "more than half of it at the measured speed is refused at once."
        },
    )
    max_connections: int = field(
        default=256, metadata={"help": "Maximum number of requests that are uploaded or transcribed at the same time."}
    )
    api_key: str | None = field(
        default=None,
        metadata={
            "help": "Key that clients must send (Authorization: Bearer KEY). Without this option, the environment "
            "variable HF_ASR_API_KEY is used."
        },
    )
    cors_origins: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Origins whose pages may call the server from a browser, such as https://example.org; * allows all."
        },
    )
    forwarded_allow_ips: str | None = field(
        default=None,
        metadata={
            "help": "Addresses of trusted proxies, separated by commas. Their X-Forwarded-For header names the client; "
            "the header is ignored from any other address."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.api_key = self.api_key or os.environ.get("HF_ASR_API_KEY") or None  # an empty key means no key
        for origin in self.cors_origins:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ValueError(
                    f"cors_origins: {origin!r} is not an origin; write https://example.org, without a path"
                )
