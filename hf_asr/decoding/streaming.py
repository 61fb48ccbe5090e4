"""Recognise live audio: samples in, partial and final text out, for one stream or many in one forward."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .endpoints import PAUSE_SECONDS, EndpointArguments, Endpointer
from .recognizer import Recognizer
from .streams import EncoderStream, step
from .transcript import Word, to_transcript


@dataclass
class StreamingResult:
    """The text of an utterance of a stream.

    Attributes:
        text: All of the utterance so far.
        words: With times in seconds from the beginning of the stream.
        utterance: Its number in the stream, from 0.
        is_final: The utterance has ended; otherwise its text may change.
    """

    text: str
    words: list[Word] = field(default_factory=list)
    utterance: int = 0
    is_final: bool = False


class StreamingRecognizer:
    """One stream of live audio.

    Args:
        recognizer: With a model that was trained in chunks; its configuration has `chunk_size` and `num_left_chunks`.
        endpoints: Where utterances end.

    Raises:
        ValueError: The model cannot stream; the message says why.
    """

    def __init__(self, recognizer: Recognizer, endpoints: EndpointArguments | None = None):
        self.recognizer, endpoints = recognizer, endpoints or EndpointArguments()
        self.stream = EncoderStream(recognizer.model, recognizer.processor.feature_extractor)
        silence, pause, longest = (
            max(1, math.ceil(round(seconds / recognizer.seconds_per_frame, 6)))
            for seconds in (endpoints.endpoint_silence_s, PAUSE_SECONDS, endpoints.max_utterance_s)
        )
        self._endpointer = Endpointer(silence_frames=silence, pause_frames=pause, max_frames=longest)
        self._states: list[Any] = []  # the decoder's, of the utterance
        self._start, self._utterance = 0, 0  # the utterance's first encoder frame, and its number
        self._partial: StreamingResult | None = None
        self._cut_token: int | None = None  # at whose frame an utterance ended, while it goes on

    @property
    def is_ready(self) -> bool:
        """Whether `recognize_step` can encode a chunk, or the rest of a finished stream."""
        return self.stream.is_ready()

    def accept(self, samples: np.ndarray) -> list[StreamingResult]:
        """Return the results that changed with more samples (samples,), float in [-1, 1]; any number of them.

        Raises:
            ValueError: The stream is finished, or the samples are not finite or not mono.
        """
        self.add(samples)
        return self._recognized()

    def finish(self) -> list[StreamingResult]:
        """Return the last results, all of them final; the stream takes no more samples."""
        self.end()
        return self._recognized()

    def add(self, samples: np.ndarray) -> None:
        """Add samples for `recognize_step`; raise ValueError as `accept` does."""
        samples = np.asarray(samples, dtype=np.float32)
        if self.stream.is_finished:
            raise ValueError("the stream is finished: begin a new one")
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(f"samples must be finite, in the shape (samples,), not {samples.shape}")
        self.stream.add(samples)

    def end(self) -> None:
        """End the stream: `recognize_step` also returns its last results."""
        if not self.stream.is_finished:
            self.stream.end()

    def _recognized(self) -> list[StreamingResult]:
        """Return the final results of all steps, and the partial result after the last one."""
        results: list[StreamingResult] = []
        while self.is_ready:
            results += recognize_step([self])[0]
        if self.stream.is_finished:
            results += self.end_utterance()
        return [result for result in results if result.is_final or result is results[-1]]

    def take(self, log_probs: torch.Tensor) -> list[StreamingResult]:
        """Return the results that changed with more log-probabilities (frames, vocabulary)."""
        results, blank = [], self.recognizer.processor.tokenizer.pad_token_id
        tokens = log_probs.cpu().numpy().argmax(-1)
        while len(tokens):
            log_probs, tokens = self._without_cut_token(log_probs, tokens, blank=blank)
            end = self._endpointer.find(tokens == blank)
            self._states.append(self.recognizer.decoder.keep(log_probs[:end]))
            if end is None:
                break
            self._cut_token = None if tokens[end - 1] == blank else int(tokens[end - 1])
            results += self.end_utterance()
            log_probs, tokens = log_probs[end:], tokens[end:]
        if not self._endpointer.has_speech:  # silence before an utterance is not kept
            self._begin_utterance()
        elif (partial := self._result()) != self._partial:
            self._partial = partial
            results += [partial] if partial.text else []
        return results

    def _without_cut_token(
        self, log_probs: torch.Tensor, tokens: np.ndarray, *, blank: int
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Return log-probabilities and best tokens with blanks where the token at the last utterance's end goes on.

        An utterance without a pause ends at any frame, which may be inside a token; it would be in both utterances.
        """
        count = 0
        while count < len(tokens) and tokens[count] == self._cut_token:
            count += 1
        if count:
            log_probs, tokens = log_probs.clone(), tokens.copy()
            log_probs[:count], tokens[:count] = torch.finfo(log_probs.dtype).min, blank
            log_probs[:count, blank] = 0.0
        if count < len(tokens):
            self._cut_token = None
        return log_probs, tokens

    def end_utterance(self) -> list[StreamingResult]:
        """Return the final result of the utterance, none if it has no speech, and begin the next one."""
        results = []
        if self._endpointer.has_speech and (final := self._result()).text:
            results = [dataclasses.replace(final, is_final=True)]
            self._utterance += 1
        self._begin_utterance()
        return results

    def _begin_utterance(self) -> None:
        self._start += self._endpointer.frames
        self._endpointer.begin()
        self._states, self._partial = [], None

    def _result(self) -> StreamingResult:
        """Return the utterance so far."""
        recognizer, seconds = self.recognizer, self.recognizer.seconds_per_frame
        transcript = to_transcript(
            recognizer.decoder.finish(self._states)[0],
            recognizer.processor.tokenizer,
            seconds_per_frame=seconds,
            duration=self.stream.features.num_samples / recognizer.sampling_rate,
            start=self._start * seconds,
        )
        return StreamingResult(transcript.text, transcript.words, self._utterance)


def recognize_step(streams: Sequence[StreamingRecognizer]) -> list[list[StreamingResult]]:
    """Encode the next chunk of each stream in one forward; return the results that changed, a list for each stream.

    The streams can be at any place. All of them must be ready, and have the same recogniser.
    """
    log_probs = step(streams[0].recognizer.model, [stream.stream for stream in streams])
    return [stream.take(values) for stream, values in zip(streams, log_probs, strict=True)]
