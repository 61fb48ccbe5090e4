"""Recognise live audio: samples in, partial and final text out, for one stream or many in one forward."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.media import as_waveform
from ..model.tokenization_conformer import HAN
from .endpoints import PAUSE_SECONDS, EndpointArguments, Endpointer
from .recognizer import Recognizer
from .streams import Encoded, EncoderStream, step
from .token_texts import token_texts
from .transcript import Hypothesis, Word


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
        self.search = recognizer.begin()  # of the utterance
        self._start, self._utterance = 0, 0  # the utterance's first encoder frame, and its number
        self._partial: StreamingResult | None = None
        self._cut_token: int | None = None  # at whose frame an utterance ended, while it goes on
        self._earliest, self._latest = 0.0, math.inf  # encoder frames between which the utterance's words are
        self._begins_word = word_beginnings(recognizer.processor.tokenizer)
        self._last_token = recognizer.processor.tokenizer.pad_token_id

    @property
    def has_speech(self) -> bool:
        """Whether the utterance has begun."""
        return self._endpointer.has_speech

    @property
    def is_ready(self) -> bool:
        """Whether `recognize_step` can encode a chunk, or the rest of a finished stream."""
        return self.stream.is_ready()

    def accept(self, samples: np.ndarray) -> list[StreamingResult]:
        """Return the results that changed with more samples (samples,); any number of them.

        They are float in [-1, 1], int16, int32 or uint8.

        Raises:
            ValueError: The stream is finished, or the samples are not finite, not mono or of another type.
        """
        self.add(samples)
        return self._recognized()

    def finish(self) -> list[StreamingResult]:
        """Return the last results, all of them final; the stream takes no more samples."""
        self.end()
        return self._recognized()

    def add(self, samples: np.ndarray) -> None:
        """Add samples for `recognize_step`; raise ValueError as `accept` does."""
        samples = as_waveform(samples)
        if self.stream.is_finished:
            raise ValueError("the stream is finished: begin a new one")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite, but some are NaN or infinite")
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

    def split(self, encoded: Encoded) -> tuple[Encoded, Encoded | None]:
        """Return the frames of the utterance, and the later ones if it ends."""
        log_probs, states = encoded
        blank = self.recognizer.processor.tokenizer.pad_token_id
        spoken = log_probs[:, : len(self._begins_word)].cpu().numpy().argmax(-1)
        begins_word = self._begins_word[spoken] & np.diff(spoken, prepend=self._last_token).astype(bool)
        log_probs, tokens = self._without_cut_token(log_probs, spoken, blank=blank)
        end = self._endpointer.find(tokens == blank, begins_word)
        self._last_token = int(spoken[:end][-1]) if len(spoken[:end]) else self._last_token
        if end is None:
            return Encoded(log_probs, states), None
        self._cut_token = int(tokens[end - 1]) if end and tokens[end - 1] != blank else None
        parts = slice(end), slice(end, None)
        return tuple(Encoded(log_probs[part], None if states is None else states[part]) for part in parts)

    def partial_results(self, hypothesis: Hypothesis) -> list[StreamingResult]:
        """Return the result of the utterance so far if its text changed."""
        result = self._result(hypothesis)
        is_new, self._partial = result != self._partial, result
        return [result] if is_new and result.text else []

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
        return self.final_results(self.recognizer.decoder.finish([self.search])[0][0])

    def final_results(self, hypothesis: Hypothesis, *, is_cut: bool = False) -> list[StreamingResult]:
        """Return the result of the utterance, none if it has no speech, and begin the next one.

        Args:
            is_cut: The next utterance may follow without a pause, so that their words must not overlap.
        """
        results, middle = [], self._start + self._endpointer.frames - self._endpointer.blanks / 2
        self._latest = middle if is_cut else math.inf
        if self.has_speech and (final := self._result(hypothesis)).text:
            results = [dataclasses.replace(final, is_final=True)]
            self._utterance += 1
        self.begin_utterance()
        self._earliest, self._latest = middle if is_cut else 0.0, math.inf
        return results

    def begin_utterance(self) -> None:
        """Begin the next utterance."""
        self._start += self._endpointer.frames
        self._endpointer.begin()
        self.search, self._partial = self.recognizer.begin(), None

    def _result(self, hypothesis: Hypothesis) -> StreamingResult:
        """Return the utterance so far."""
        seconds = self.recognizer.seconds_per_frame
        duration = self.stream.features.num_samples / self.recognizer.sampling_rate
        transcript = self.recognizer.to_transcript(hypothesis, duration=duration, start=self._start * seconds)
        for word in transcript.words[:1]:
            word.start = max(word.start, round(self._earliest * seconds, 3))
        for word in transcript.words[-1:]:
            word.end = min(word.end, round(self._latest * seconds, 3))
        return StreamingResult(transcript.text, transcript.words, self._utterance)


def word_beginnings(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return whether a token begins a word, bool (vocabulary,): one with a space at its begin, or a Han character."""
    texts = [text or "" for text in token_texts(tokenizer)]
    return np.array([text.startswith(" ") or HAN.match(text) is not None for text in texts])


def recognize_step(streams: Sequence[StreamingRecognizer]) -> list[list[StreamingResult]]:
    """Encode the next chunk of each stream in one forward; return the results that changed, a list for each stream.

    The streams can be at any place.

    Raises:
        ValueError: A stream is not ready, or the streams have different models or decoders.
    """
    return decode_step(streams, encode_chunks(streams)) if streams else []


def encode_chunks(streams: Sequence[StreamingRecognizer]) -> list[Encoded]:
    """Encode the next chunk of each stream in one forward; raise ValueError as `recognize_step` does."""
    recognizer = streams[0].recognizer
    for own in (stream.recognizer for stream in streams):  # those of `with_hotwords` share both
        if own.model is not recognizer.model or own.decoder is not recognizer.decoder:
            raise ValueError(
                "streams of one step must have the same recogniser, or recognisers that with_hotwords returned for it"
            )
    if not all(stream.is_ready for stream in streams):
        raise ValueError("a stream has too few samples for a step: give the streams whose is_ready is True")
    options = {"needs_states": recognizer.decoder.needs_states}
    return step(recognizer.model, [stream.stream for stream in streams], **options)


def decode_step(streams: Sequence[StreamingRecognizer], encoded: Sequence[Encoded]) -> list[list[StreamingResult]]:
    """Return the results of each stream that changed with the next chunk of it.

    The streams have the same recogniser, whose decoder decodes them together.
    """
    decoder, results = streams[0].recognizer.decoder, [[] for _ in streams]
    rest = dict(enumerate(encoded))
    while rest:  # more than once if an utterance ends within the step
        parts = {i: streams[i].split(chunk) for i, chunk in rest.items()}
        decoder.advance([streams[i].search for i in parts], [decoder.keep(*own) for own, _ in parts.values()])
        for i in parts:  # silence before an utterance is not kept
            if not streams[i].has_speech:
                streams[i].begin_utterance()
        for is_partial in (True, False):
            own = [i for i in parts if streams[i].has_speech and (parts[i][1] is None) == is_partial]
            found = decoder.finish([streams[i].search for i in own], is_partial=is_partial)
            for i, hypotheses in zip(own, found, strict=True):
                best = hypotheses[0]
                results[i] += (
                    streams[i].partial_results(best) if is_partial else streams[i].final_results(best, is_cut=True)
                )
        rest = {i: later for i, (_, later) in parts.items() if later is not None and len(later.log_probs)}
    return results
