"""Recognise speech with a checkpoint: waveforms to log-probabilities, and through a decoder to transcripts."""

import copy
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..checkpoint import load_checkpoint
from ..data.audio import AudioError, LongRecording, Recording, read_or_open
from ..data.media import as_waveform
from ..families import is_conformer, model_inputs, output_lengths, samples_per_frame, shortest_input
from ..model import ConformerForCTC
from .arguments import ChunkArguments, DecodingArguments
from .decoders import Decoder, build_decoder
from .hotwords import Hotword, named_hotwords, parse_hotwords
from .language_model import read_language_model
from .lexicon import build_lexicon, named_lexicon
from .progress import Progress, ProgressFile
from .scorers import Scorer
from .streams import Encoded, EncoderStream, can_stream, check_streams, encode_in_steps, encode_stream
from .transcript import Hypothesis, Transcript, to_transcript
from .tuned import read_tuned
from .voice_activity import check_vad, split_at_pauses
from .windows import Window, batches, consecutive_batches, split_windows
from .written_form import check_itn, to_written_form

logger = logging.getLogger("hf_asr")

BATCH_SECONDS = 120.0  # greatest number of windows in a batch times the longest one, in seconds

LONG_SECONDS = 120.0  # a file that is longer is recognised while it is read
PIECE_SECONDS = 1.0  # of a waveform, whose features are computed together

Audio = np.ndarray | LongRecording | str | Path


class Recognizer:
    """A model, its processor and a decoder.

    Args:
        decoder: The one that the arguments name if None.
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
        self.arguments = (arguments or DecodingArguments()).resolved({})
        self.model, self.processor, self.name = with_chunks(model.eval(), self.arguments), processor, name
        self.decoder = decoder or build_decoder(
            self.arguments.decoding,
            processor.tokenizer,
            self.model,
            beam_size=self.arguments.beam_size,
            blank_penalty=self.arguments.blank_penalty,
            scorers=scorers_of(self.arguments, processor.tokenizer),
            ctc_weight=self.arguments.ctc_weight,
            reverse_weight=self.arguments.reverse_weight,
            seconds_per_frame=self.seconds_per_frame,
        )
        self.hotwords = tuple(named_hotwords(self.arguments.hotwords or "", self.arguments.hotword_boost))
        for remark in self.compile_hotwords(self.hotwords):
            logger.warning(remark)
        if self.arguments.streaming:
            check_streams(self.model, processor.feature_extractor)
        if self.arguments.vad:
            check_vad(self.sampling_rate)
        if self.arguments.itn:
            check_itn()

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveforms that the model takes, in Hz."""
        return self.processor.feature_extractor.sampling_rate

    @property
    def seconds_per_frame(self) -> float:
        """Seconds of audio that one frame of logits covers."""
        return samples_per_frame(self.model.config) / self.sampling_rate

    @property
    def takes_hotwords(self) -> bool:
        """Whether the decoder uses hotwords."""
        return getattr(self.decoder, "compiler", None) is not None

    def compile_hotwords(self, hotwords: Sequence[Hotword]) -> Sequence[str]:
        """Prepare hotwords for recordings, and return remarks on those that the vocabulary cannot spell.

        Raises:
            ValueError: There are hotwords, and the decoder takes none.
        """
        if not hotwords:
            return ()
        if not self.takes_hotwords:
            raise ValueError(f"{self.decoder.name} decoding does not use hotwords: choose --decoding beam")
        return self.decoder.compiler.compile(hotwords).remarks

    def with_hotwords(self, hotwords: str | Path | Iterable[str | Hotword]) -> "Recognizer":
        """Return a recogniser with the same model and decoder, whose recordings have these hotwords.

        Args:
            hotwords: As for `parse_hotwords`; phrases without a boost of their own get that of the arguments.
        """
        copied = copy.copy(self)
        copied.hotwords = tuple(parse_hotwords(hotwords, self.arguments.hotword_boost))
        self.compile_hotwords(copied.hotwords)
        return copied

    def split(self, waveform: np.ndarray) -> list[Window]:
        """Return the windows of a recording (samples,)."""
        return list(self._windows([waveform]))

    def _windows(self, pieces: Iterable[np.ndarray]) -> Iterator[Window]:
        """Yield the windows of a recording in consecutive pieces (samples,)."""
        split = split_at_pauses if self.arguments.vad else split_windows
        return split(
            pieces,
            sampling_rate=self.sampling_rate,
            samples_per_frame=samples_per_frame(self.model.config),
            chunk_seconds=self.arguments.chunk_length_s,
            stride_seconds=self.arguments.stride_length_s,
        )

    def log_probs(self, windows: Sequence[Window]) -> list[torch.Tensor]:
        """Return log-probabilities (frames, vocabulary) of each window without its context; one batch computes all."""
        return [encoded.log_probs for encoded in self.encode(windows)]

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> list[Encoded]:
        """Return what the decoder needs of each window without its context; one batch computes all."""
        if any(window.pause for window in windows):
            spoken = [window for window in windows if not window.pause]
            computed = iter(self.encode(spoken) if spoken else ())
            return [self._silence(each) if each.pause else next(computed) for each in windows]
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
        if not is_conformer(self.model.config):  # ours normalises its features in float32 and rounds them then
            inputs = inputs.to(self.model.dtype)
        options = {"output_hidden_states": True} if self.decoder.needs_states else {}
        output = self.model(**model_inputs(inputs, extractor), **options)
        log_probs = F.log_softmax(output.logits, dim=-1, dtype=torch.float32)  # (B, S, V)
        states = output.hidden_states[-1] if options else [None] * len(windows)  # (B, S, D)
        lengths = output_lengths(self.model, inputs["attention_mask"]).clamp(max=log_probs.shape[1]).tolist()
        encoded = []
        for window, length, values, own in zip(windows, lengths, log_probs, states, strict=True):
            values = self._with_all_frames(values[:length], window)
            used = slice(window.left, len(values) - window.right)
            encoded.append(Encoded(values[used], None if own is None else own[:length][used]))
        return encoded

    def _silence(self, window: Window) -> Encoded:
        """Return the blanks of a pause, which is not encoded."""
        frames = round(window.pause / samples_per_frame(self.model.config))
        like = {"device": self.model.device, "dtype": self.model.dtype}
        states = torch.zeros(0, getattr(self.model.config, "hidden_size", 0), **like)
        return Encoded(self._blanks(frames, self.model.config.vocab_size), states)

    def _with_all_frames(self, log_probs: torch.Tensor, window: Window) -> torch.Tensor:
        """Append blank frames where a window has fewer frames than its samples: later words keep their times."""
        lack = round(len(window.waveform) / samples_per_frame(self.model.config)) - len(log_probs)
        if lack <= 0:
            return log_probs
        return torch.cat([log_probs, self._blanks(lack, log_probs.shape[1])])

    def _blanks(self, frames: int, size: int) -> torch.Tensor:
        """Return log-probabilities (frames, size of the vocabulary) of frames that are surely blank."""
        log_probs = torch.full((frames, size), torch.finfo(torch.float32).min, device=self.model.device)
        log_probs[:, self.processor.tokenizer.pad_token_id] = 0.0
        return log_probs

    def keep(self, windows: Sequence[Window]) -> list[Any]:
        """Return what the decoder keeps of each window; one batch computes all."""
        return [self.decoder.keep(*encoded) for encoded in self.encode(windows)]

    def begin(self, hotwords: Sequence[Hotword] | None = None) -> Any:
        """Return the decoder's search of a recording with these hotwords; with those of the recogniser if None."""
        return self.decoder.begin(self.hotwords if hotwords is None else hotwords)

    def decode(
        self,
        recordings: Sequence[Sequence[Any]],
        *,
        durations: Sequence[float],
        hotwords: Sequence[Sequence[Hotword] | None] | None = None,
    ) -> list[Transcript]:
        """Return the transcripts of recordings, which are decoded together.

        Args:
            recordings: What the decoder kept of the windows of each recording, in their order.
            durations: Of the recordings, in seconds.
            hotwords: Of each recording; None for those of the recogniser.
        """
        searches = [self.begin(own) for own in hotwords or [None] * len(recordings)]
        for windows in itertools.zip_longest(*recordings):  # the first one of each recording, then the second one …
            active = [i for i, window in enumerate(windows) if window is not None]
            self.decoder.advance([searches[i] for i in active], [windows[i] for i in active])
        return self._transcripts(searches, durations)

    def _transcripts(self, searches: Sequence[Any], durations: Sequence[float]) -> list[Transcript]:
        """Return the transcripts of recordings whose windows were searched."""
        found = zip(self.decoder.finish(searches), durations, strict=True)
        return [self.to_transcript(hypotheses[0], duration=duration) for hypotheses, duration in found]

    def to_transcript(self, hypothesis: Hypothesis, *, duration: float, start: float = 0.0) -> Transcript:
        """Return text and words of a hypothesis, see `transcript.to_transcript`, with digits if `itn` is set."""
        options = {"seconds_per_frame": self.seconds_per_frame, "duration": duration, "start": start}
        transcript = to_transcript(hypothesis, self.processor.tokenizer, **options)
        return to_written_form(transcript) if self.arguments.itn else transcript

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
            TypeError: A recording is something else.
            ValueError: An opened recording has another sampling rate, or a waveform is not mono or of 64-bit integers.
        """
        if isinstance(recordings, Audio):
            return self.transcribe([recordings], show_progress=show_progress)[0]
        opened = self.opened(recordings)
        waveforms = [each for each in opened if isinstance(each, np.ndarray)]
        transcripts = iter(self._transcribe_waveforms(waveforms, show_progress=show_progress))
        return [
            next(transcripts) if isinstance(each, np.ndarray) else self._transcribe_long(each, show_progress)
            for each in opened
        ]

    def opened(self, recordings: Sequence[Audio]) -> list[np.ndarray | LongRecording]:
        """Return the waveforms of recordings in [-1, 1], or what reads long files; raise as `transcribe` does."""
        options = {"sampling_rate": self.sampling_rate, "max_seconds": LONG_SECONDS}
        opened = [_opened(each, **options) for each in recordings]
        for each in opened:
            if isinstance(each, LongRecording) and each.sampling_rate != self.sampling_rate:
                raise ValueError(
                    f"a recording was opened at {each.sampling_rate} Hz: open it with sampling_rate="
                    f"{self.sampling_rate}"
                )
        return opened

    def _transcribe_waveforms(self, waveforms: Sequence[np.ndarray], *, show_progress: bool) -> list[Transcript]:
        """Return the transcripts of waveforms (samples,), whose windows share batches."""
        longest = max(map(len, waveforms), default=0) / self.sampling_rate
        if self._uses_cache(longest):
            return self._transcribe_in_steps(waveforms, show_progress=show_progress)
        split = [self.split(waveform) for waveform in waveforms]
        windows = [window for parts in split for window in parts]
        kept: list[Any] = [None] * len(windows)
        progress = tqdm(total=len(windows), desc="Recognising", unit="window", disable=not show_progress)
        options = {"batch_seconds": BATCH_SECONDS, "sampling_rate": self.sampling_rate}
        for batch in batches(windows, **options):
            for i, part in zip(batch, self.keep([windows[i] for i in batch]), strict=True):
                kept[i] = part
            progress.update(len(batch))
        progress.close()
        ordered = iter(kept)
        durations = [len(waveform) / self.sampling_rate for waveform in waveforms]
        return self.decode([[next(ordered) for _ in parts] for parts in split], durations=durations)

    def _transcribe_long(self, recording: LongRecording, show_progress: bool) -> Transcript:
        """Return the transcript of a recording that is recognised while it is read."""
        total = round(recording.duration)
        progress = tqdm(total=total, desc="Recognising", unit="s", disable=not show_progress, leave=False)
        file = ProgressFile(recording.progress_path)
        entries = self.arguments.lexicon and named_lexicon(self.arguments.lexicon)
        key = (self.name, self.arguments, entries, self.hotwords, self.model.config, recording.duration)
        done = file.load(" ".join(map(str, key)))
        if done.search is None:
            done.search = self.begin()
        for batch in self.encode_as_read(recording, done):
            for encoded in batch:
                self.decoder.advance([done.search], [self.decoder.keep(*encoded)])
                done.frames += len(encoded.log_probs)
                progress.update(min(total, round(done.frames * self.seconds_per_frame)) - progress.n)
            done.windows += len(batch)
            file.save_if_due(done)
        progress.close()
        return self._transcripts([done.search], [recording.duration])[0]

    def encode_as_read(self, recording: LongRecording, done: Progress | None = None) -> Iterator[list[Encoded]]:
        """Yield what the decoder needs of the next windows of a recording, after what is done of it.

        One batch computes the windows of a list.
        """
        done = done or Progress("")
        if self._uses_cache(recording.duration):
            done.stream = done.stream or EncoderStream(self.model, self.processor.feature_extractor)
            options = {"num_chunks": self._chunks_of_step()[0], "needs_states": self.decoder.needs_states}
            yield from ([encoded] for encoded in encode_stream(self.model, done.stream, recording, **options))
            return
        place, options = 0, {"batch_seconds": BATCH_SECONDS, "sampling_rate": self.sampling_rate}
        for batch in consecutive_batches(self._windows(recording), **options):
            place += len(batch)
            if place > done.windows:  # the batches are the same as without an interruption
                yield self.encode(batch)

    def _uses_cache(self, longest: float) -> bool:
        """Return whether to encode through the cache: with `streaming`, and where windows would not be exact.

        Args:
            longest: Length of the longest recording, in seconds.
        """
        if self.arguments.streaming or self.arguments.vad:
            return self.arguments.streaming
        return longest > self.arguments.chunk_length_s and can_stream(self.model, self.processor.feature_extractor)

    def _chunks_of_step(self) -> tuple[int, int]:
        """Return the chunks of a step through the cache, and the recordings that share it."""
        chunk_seconds = self.model.config.chunk_size * self.seconds_per_frame
        num_chunks = 1 if self.arguments.streaming else max(1, int(self.arguments.chunk_length_s // chunk_seconds))
        return num_chunks, max(1, int(BATCH_SECONDS // (num_chunks * chunk_seconds)))

    def _transcribe_in_steps(self, waveforms: Sequence[np.ndarray], *, show_progress: bool) -> list[Transcript]:
        """Return the transcripts of waveforms that are encoded through the cache, like one pass over each of them."""
        num_chunks, max_streams = self._chunks_of_step()
        options = {"num_chunks": num_chunks, "max_streams": max_streams, "needs_states": self.decoder.needs_states}
        kept: list[list[Any]] = [[] for _ in waveforms]
        durations = [len(waveform) / self.sampling_rate for waveform in waveforms]
        progress = tqdm(total=round(sum(durations)), desc="Recognising", unit="s", disable=not show_progress)
        size = round(PIECE_SECONDS * self.sampling_rate)
        recordings = ([waveform[i : i + size] for i in range(0, len(waveform), size)] for waveform in waveforms)
        for i, encoded in encode_in_steps(self.model, self.processor.feature_extractor, recordings, **options):
            kept[i].append(self.decoder.keep(*encoded))
            progress.update(round(len(encoded.log_probs) * self.seconds_per_frame))
        progress.close()
        return self.decode(kept, durations=durations)


def _opened(recording: Audio | Recording, **options: Any) -> np.ndarray | LongRecording:
    """Return the waveform of a recording in [-1, 1], or what reads a long one.

    Raises:
        AudioError: The file cannot be read.
        TypeError: It is neither a path nor a waveform nor an opened recording.
    """
    if isinstance(recording, str | Path):
        path = recording
        try:
            recording = read_or_open(path, **options)
        except AudioError as error:
            raise type(error)(f"{path}: {error}") from error
    recording = recording.waveform if isinstance(recording, Recording) else recording
    if isinstance(recording, np.ndarray):
        return as_waveform(recording)
    if not isinstance(recording, LongRecording):
        raise TypeError(
            f"a recording is a path, a waveform as a numpy array (samples,) or an opened recording, not "
            f"{type(recording).__name__}"
        )
    return recording


def scorers_of(arguments: DecodingArguments, tokenizer: PreTrainedTokenizerBase) -> list[Scorer]:
    """Return the scorers that the arguments name: a language model, a lexicon, both or none.

    Raises:
        ValueError: A file cannot be read, or does not fit the vocabulary.
    """
    scorers: list[Scorer] = []
    if arguments.language_model is not None:
        weights = {"weight": arguments.language_model_weight, "bonus": arguments.word_insertion_bonus}
        scorers.append(read_language_model(arguments.language_model, tokenizer, **weights))
    if arguments.lexicon is not None:
        scorers.append(lexicon := build_lexicon(named_lexicon(arguments.lexicon), tokenizer))
        for remark in lexicon.remarks:
            logger.warning(remark)
    return scorers


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
        ValueError: The name is not a checkpoint, or the checkpoint is damaged or has no tokenizer; or the language
            model is damaged or of other tokens.
        ImportError: An exported graph needs onnxruntime, which is not installed.
    """
    arguments = arguments or DecodingArguments()
    dtype = getattr(torch, arguments.dtype)
    model, processor = load_checkpoint(str(model_name_or_path), device=device, dtype=dtype)
    arguments = arguments.resolved(read_tuned(model_name_or_path))
    return Recognizer(model, processor, arguments=arguments, name=str(model_name_or_path))
