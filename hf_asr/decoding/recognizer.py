"""Recognise speech with a checkpoint: waveforms to log-probabilities, and through a decoder to transcripts."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..checkpoint import load_checkpoint
from ..data.audio import LongRecording, Recording, read_or_open
from ..families import model_inputs, output_lengths, samples_per_frame, shortest_input
from ..model import ConformerForCTC
from .arguments import ChunkArguments, DecodingArguments
from .decoders import Decoder, build_decoder
from .streams import can_stream, check_streams, encode_in_steps
from .transcript import Transcript, to_transcript
from .windows import Window, batches, split_windows

BATCH_SECONDS = 120.0  # greatest number of windows in a batch times the longest one, in seconds

LONG_SECONDS = 120.0  # a file that is longer is recognised while it is read
PIECE_SECONDS = 1.0  # of a waveform, whose features are computed together

Audio = np.ndarray | LongRecording | str | Path


class Recognizer:
    """A model, its processor and a decoder.

    Args:
        decoder: Greedy if None.
        name: What the model is called where people see it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        decoder: Decoder | None = None,
        *,
        arguments: DecodingArguments | None = None,
        name: str = "",
    ):
        self.arguments = arguments or DecodingArguments()
        self.model, self.processor, self.name = with_chunks(model.eval(), self.arguments), processor, name
        self.decoder = decoder or build_decoder(self.arguments.decoding, processor.tokenizer)
        if self.arguments.streaming:
            check_streams(self.model, processor.feature_extractor)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveforms that the model takes, in Hz."""
        return self.processor.feature_extractor.sampling_rate

    @property
    def seconds_per_frame(self) -> float:
        """Seconds of audio that one frame of logits covers."""
        return samples_per_frame(self.model.config) / self.sampling_rate

    def split(self, waveform: np.ndarray) -> list[Window]:
        """Return the windows of a recording (samples,)."""
        return list(self._windows([waveform]))

    def _windows(self, pieces: Iterable[np.ndarray]) -> Iterator[Window]:
        """Yield the windows of a recording in consecutive pieces (samples,)."""
        return split_windows(
            pieces,
            sampling_rate=self.sampling_rate,
            samples_per_frame=samples_per_frame(self.model.config),
            chunk_seconds=self.arguments.chunk_length_s,
            stride_seconds=self.arguments.stride_length_s,
        )

    @torch.inference_mode()
    def log_probs(self, windows: Sequence[Window]) -> list[torch.Tensor]:
        """Return log-probabilities (frames, vocabulary) of each window without its context; one batch computes all."""
        extractor = self.processor.feature_extractor
        shortest = shortest_input(extractor)
        inputs = self.processor(
            [np.pad(window.waveform, (0, max(0, shortest - len(window.waveform)))) for window in windows],
            sampling_rate=self.sampling_rate,
            return_tensors="pt",
            padding=True,
            return_attention_mask=True,
            device=self.model.device,
        ).to(self.model.device)
        logits = self.model(**model_inputs(inputs, extractor)).logits
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)  # (B, S, V)
        lengths = output_lengths(self.model, inputs["attention_mask"]).clamp(max=log_probs.shape[1]).tolist()
        parts = []
        for window, length, values in zip(windows, lengths, log_probs, strict=True):
            values = self._with_all_frames(values[:length], window)
            parts.append(values[window.left : len(values) - window.right])
        return parts

    def _with_all_frames(self, log_probs: torch.Tensor, window: Window) -> torch.Tensor:
        """Append blank frames where a window has fewer frames than its samples: later words keep their times."""
        lack = round(len(window.waveform) / samples_per_frame(self.model.config)) - len(log_probs)
        if lack <= 0:
            return log_probs
        blank = log_probs.new_full((lack, log_probs.shape[1]), torch.finfo(torch.float32).min)
        blank[:, self.processor.tokenizer.pad_token_id] = 0.0
        return torch.cat([log_probs, blank])

    def keep(self, windows: Sequence[Window]) -> list[Any]:
        """Return the decoder's state of each window; one batch computes all."""
        return [self.decoder.keep(log_probs) for log_probs in self.log_probs(windows)]

    def finish(self, states: Sequence[Any], *, duration: float) -> Transcript:
        """Return the transcript of a recording of `duration` seconds from the states of its windows in their order."""
        hypothesis = self.decoder.finish(states)[0]
        options = {"seconds_per_frame": self.seconds_per_frame, "duration": duration}
        return to_transcript(hypothesis, self.processor.tokenizer, **options)

    def transcribe(
        self, recordings: Audio | Sequence[Audio], *, show_progress: bool = False
    ) -> Transcript | list[Transcript]:
        """Transcribe one recording, or several in their order.

        Args:
            recordings: A path of an audio file in any format, a mono waveform (samples,) in [-1, 1] at `sampling_rate`,
                a recording that `open_recording` has opened, or a sequence of these. Files that are longer than
                `LONG_SECONDS` are never in memory.

        Raises:
            AudioError: A file cannot be read.
            ValueError: An opened recording has another sampling rate.
        """
        if isinstance(recordings, Audio):
            return self.transcribe([recordings], show_progress=show_progress)[0]
        options = {"sampling_rate": self.sampling_rate, "max_seconds": LONG_SECONDS}
        opened = [read_or_open(each, **options) if isinstance(each, str | Path) else each for each in recordings]
        opened = [each.waveform if isinstance(each, Recording) else each for each in opened]
        for each in opened:
            if isinstance(each, LongRecording) and each.sampling_rate != self.sampling_rate:
                raise ValueError(
                    f"a recording was opened at {each.sampling_rate} Hz: open it with sampling_rate="
                    f"{self.sampling_rate}"
                )
        waveforms = [each for each in opened if isinstance(each, np.ndarray)]
        transcripts = iter(self._transcribe_waveforms(waveforms, show_progress=show_progress))
        return [
            next(transcripts) if isinstance(each, np.ndarray) else self._transcribe_long(each, show_progress)
            for each in opened
        ]

    def _transcribe_waveforms(self, waveforms: Sequence[np.ndarray], *, show_progress: bool) -> list[Transcript]:
        """Return the transcripts of waveforms (samples,), whose windows share batches."""
        longest = max(map(len, waveforms), default=0) / self.sampling_rate
        if self._uses_cache(longest):
            return self._transcribe_in_steps(waveforms, show_progress=show_progress)
        split = [self.split(waveform) for waveform in waveforms]
        windows = [window for parts in split for window in parts]
        states: list[Any] = [None] * len(windows)
        progress = tqdm(total=len(windows), desc="Recognising", unit="window", disable=not show_progress)
        options = {"batch_seconds": BATCH_SECONDS, "sampling_rate": self.sampling_rate}
        for batch in batches(windows, **options):
            for i, state in zip(batch, self.keep([windows[i] for i in batch]), strict=True):
                states[i] = state
            progress.update(len(batch))
        progress.close()
        ordered = iter(states)
        return [
            self.finish([next(ordered) for _ in parts], duration=len(waveform) / self.sampling_rate)
            for parts, waveform in zip(split, waveforms, strict=True)
        ]

    def _transcribe_long(self, recording: LongRecording, show_progress: bool) -> Transcript:
        """Return the transcript of a recording that is recognised while it is read."""
        total = round(recording.duration)
        progress = tqdm(total=total, desc="Recognising", unit="s", disable=not show_progress, leave=False)
        states, seconds = [], 0.0
        for log_probs in self._log_probs_as_read(recording):
            states.append(self.decoder.keep(log_probs))
            seconds += len(log_probs) * self.seconds_per_frame
            progress.update(min(total, round(seconds)) - progress.n)
        progress.close()
        return self.finish(states, duration=recording.duration)

    def _log_probs_as_read(self, recording: LongRecording) -> Iterator[torch.Tensor]:
        """Yield consecutive log-probabilities (frames, vocabulary) of a recording."""
        if self._uses_cache(recording.duration):
            model, extractor, num_chunks = self.model, self.processor.feature_extractor, self._chunks_of_step()[0]
            for _, log_probs in encode_in_steps(model, extractor, [recording], num_chunks=num_chunks):
                yield log_probs
            return
        windows, count = self._windows(recording), max(1, int(BATCH_SECONDS // self.arguments.chunk_length_s))
        while batch := list(itertools.islice(windows, count)):
            yield from self.log_probs(batch)

    def _uses_cache(self, longest: float) -> bool:
        """Return whether to encode through the cache: with `streaming`, and where windows would not be exact.

        Args:
            longest: Length of the longest recording, in seconds.
        """
        if self.arguments.streaming:
            return True
        return longest > self.arguments.chunk_length_s and can_stream(self.model, self.processor.feature_extractor)

    def _chunks_of_step(self) -> tuple[int, int]:
        """Return the chunks of a step through the cache, and the recordings that share it."""
        chunk_seconds = self.model.config.chunk_size * self.seconds_per_frame
        num_chunks = 1 if self.arguments.streaming else max(1, int(self.arguments.chunk_length_s // chunk_seconds))
        return num_chunks, max(1, int(BATCH_SECONDS // (num_chunks * chunk_seconds)))

    def _transcribe_in_steps(self, waveforms: Sequence[np.ndarray], *, show_progress: bool) -> list[Transcript]:
        """Return the transcripts of waveforms that are encoded through the cache, like one pass over each of them."""
        num_chunks, max_streams = self._chunks_of_step()
        sizes = {"num_chunks": num_chunks, "max_streams": max_streams}
        states: list[list[Any]] = [[] for _ in waveforms]
        durations = [len(waveform) / self.sampling_rate for waveform in waveforms]
        progress = tqdm(total=round(sum(durations)), desc="Recognising", unit="s", disable=not show_progress)
        size = round(PIECE_SECONDS * self.sampling_rate)
        recordings = ([waveform[i : i + size] for i in range(0, len(waveform), size)] for waveform in waveforms)
        for i, log_probs in encode_in_steps(self.model, self.processor.feature_extractor, recordings, **sizes):
            states[i].append(self.decoder.keep(log_probs))
            progress.update(round(len(log_probs) * self.seconds_per_frame))
        progress.close()
        return [self.finish(own, duration=seconds) for own, seconds in zip(states, durations, strict=True)]


def with_chunks(model: PreTrainedModel, arguments: ChunkArguments) -> PreTrainedModel:
    """Return the model in the chunks that the arguments name: itself, or a copy that shares its weights.

    So recognisers of one model can have different chunks.

    Raises:
        ValueError: The model was not trained in chunks, or is an exported graph.
    """
    named = {"chunk_size": arguments.chunk_size, "num_left_chunks": arguments.num_left_chunks}
    given = {name: value for name, value in named.items() if value is not None}
    names, config = " and ".join(given), model.config
    if all(getattr(config, name, None) == value for name, value in given.items()):
        return model
    if not isinstance(model, ConformerForCTC):
        raise ValueError(f"{names}: only a checkpoint of our Conformer has chunks that can be set, not a graph")
    is_static = config.chunk_size > 0 and arguments.chunk_size in (None, config.chunk_size)
    if not (config.use_dynamic_chunk or is_static):
        raise ValueError(f"{names}: the checkpoint was not trained in chunks; train one with configs/streaming.yaml")
    tensors = itertools.chain(model.parameters(), model.buffers())
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # all but the tensors is copied
    for name, value in given.items():
        setattr(copied.config, name, value)
    return copied


def load(
    model_name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    arguments: DecodingArguments | None = None,
) -> Recognizer:
    """Load a recogniser from a checkpoint: a folder, an exported graph or a Hub id.

    Args:
        device: Where the model computes; CUDA if it is available and None is given.

    Raises:
        ValueError: The name is not a checkpoint, or the checkpoint is damaged or has no tokenizer.
        ImportError: An exported graph needs onnxruntime, which is not installed.
    """
    model, processor = load_checkpoint(str(model_name_or_path), device=device)
    return Recognizer(model, processor, arguments=arguments, name=str(model_name_or_path))
