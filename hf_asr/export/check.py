"""Check that an exported graph gives the same output as the PyTorch model that it was made from."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..decoding.greedy import GreedyDecoder
from ..decoding.transcript import to_text
from ..families import samples_per_frame
from ..model import ConformerForCTC, ConformerProcessor
from ..runtime.ort_model import OrtConformerForCTC
from ..scoring.metrics import count_errors
from . import live, sherpa, sherpa_streaming

MAX_CER_LOSS = 0.003  # greatest increase of the CER, absolute
MIN_CHARACTERS = math.ceil(1 / MAX_CER_LOSS)  # with fewer characters, one error exceeds MAX_CER_LOSS
# Greatest divergence, in nats per frame on average. Trained models gave 0.00002 to 0.0008 in int8 and 0.0000001 in
# float16. An int8 graph with all scales a tenth too large gave 0.004, one with a scale of zero in one layer 0.005.
MAX_DIVERGENCE = 0.003
BATCH = 8  # utterances per batch; TensorRT's engine takes up to 16
SPEED_UTTERANCES = 20
SHORT_UTTERANCES = 24
# Lengths of the short recordings. They are below the extractor's `min_duration`, where a graph adds silence itself.
SHORT_SECONDS = (0.3, 0.1, 0.02)


@dataclass(frozen=True)
class Limits:
    """How much the outputs of a graph may differ from its source; `GraphComparison` explains the measures."""

    max_difference: float = math.inf
    max_divergence: float = MAX_DIVERGENCE
    max_cer_loss: float = MAX_CER_LOSS
    min_characters: int = 0


@dataclass
class GraphComparison:
    """Measures of a graph against its source, over the real frames of all utterances.

    Each utterance is run alone, cut short, and in padded batches that mix whole and cut utterances. Both sides of a
    graph for live audio encode chunk by chunk; there is also one long stream, and those of a batch are at different
    places. sherpa-onnx's streams have the silence that they need at their end, and are alone.

    Attributes:
        characters: Number of characters in PyTorch's transcripts.
        max_difference: Largest difference of log-probabilities, over all frames and tokens.
        divergence: Kullback-Leibler divergence of the graph's probabilities from PyTorch's, in nats, mean over frames.
        same_text: Share of whole utterances with the same greedy transcript, run alone.
        same_short_text: The same share for the first utterances, cut to 0.3, 0.1 and 0.02 s.
        same_batched_text: The same share for whole and cut utterances, run in batches.
        cer_before: CER of PyTorch against the references.
        cer_after: CER of the graph against the references: the higher one of two, run alone and run in batches.
        size_mb: Size of the graph's files, in 10^6 bytes.
        real_time_factor: Seconds of computing per second of audio, one utterance at a time, features included; median
            of interleaved rounds.
        source_real_time_factor: The same for PyTorch.
        provider: Where the graph ran.
    """

    file: str
    utterances: int
    characters: int
    max_difference: float
    divergence: float
    same_text: float
    same_short_text: float
    same_batched_text: float
    cer_before: float
    cer_after: float
    size_mb: float
    real_time_factor: float
    source_real_time_factor: float
    provider: str

    def refusal(self, limits: Limits) -> str | None:
        """Return why the graph must not be used, or None. A measure that is NaN exceeds every limit."""
        if not self.max_difference <= limits.max_difference:
            return f"{self.file} differs from PyTorch by {self.max_difference:.2g}, more than {limits.max_difference:g}"
        if not self.divergence <= limits.max_divergence:
            return (
                f"{self.file} has other probabilities than PyTorch: they diverge by {self.divergence:.2g} nats per "
                f"frame, more than {limits.max_divergence:g}"
            )
        if self.characters < limits.min_characters:
            return (
                f"{self.file} cannot be judged: PyTorch writes {self.characters} characters, and with fewer than "
                f"{limits.min_characters} one error alone exceeds the limit. Raise --max_utterances, or give more "
                "speech that the checkpoint transcribes"
            )
        if not self.cer_after - self.cer_before <= limits.max_cer_loss:
            return (
                f"{self.file} costs {100 * (self.cer_after - self.cer_before):.2f} points of CER "
                f"({self.cer_before:.2%} -> {self.cer_after:.2%}), more than {100 * limits.max_cer_loss:g}"
            )
        return None

    def as_dict(self) -> dict:
        """Return the measures as `export_report.json` stores them."""
        return {name: round(value, 9) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass
class _Outputs:
    """What both sides returned: texts by index of the utterance, and differences of each pair of outputs."""

    source: dict[int, str]
    alone: dict[int, str]
    batched: dict[int, str]
    differences: list[float]
    divergences: list[np.ndarray]  # (frames,) each


def compare_with_source(
    session: onnxruntime.InferenceSession,
    path: Path,
    *,
    model: ConformerForCTC,
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray],
    references: Sequence[str],
) -> GraphComparison:
    """Run a graph and its PyTorch model on the same utterances, and compare log-probabilities, texts and speed.

    Args:
        session: A session on the graph.
        path: File of the graph.
        waveforms: Mono float32 (samples,) each, at the model's sampling rate.
        references: Transcript of each waveform.

    Raises:
        ValueError: The graph returns another number of frames than PyTorch.
    """
    run_source, run, is_live = runners(session, path, model=model, processor=processor)
    tokenizer, rate = processor.tokenizer, processor.feature_extractor.sampling_rate
    items = [*waveforms, *short_cuts(waveforms, rate=rate)]
    whole, cuts = range(len(waveforms)), range(len(waveforms), len(items))
    batches = list(mixed_batches(len(whole), len(cuts)))
    if is_live:
        batches.append([len(items)])
        samples = live.CHUNKS * model.config.chunk_size * samples_per_frame(model.config)
        items.append(live.joined(waveforms, samples=samples + rate))
    outputs = _run_both(run_source, run, items=items, batches=batches, tokenizer=tokenizer, name=path.name)
    references = [tokenizer.normalize(text) for text in references]
    source, alone, batched = (
        [tokenizer.normalize(texts[i]) for i in whole] for texts in (outputs.source, outputs.alone, outputs.batched)
    )
    timed = [lambda waveform: run([waveform]), run_source]
    speed, source_speed = _speeds(timed, waveforms[:SPEED_UTTERANCES], rate=rate)
    return GraphComparison(
        file=path.name,
        utterances=len(waveforms),
        characters=sum(map(len, source)),
        max_difference=float(np.max(outputs.differences)),  # NaN if one of them is
        divergence=float(np.concatenate(outputs.divergences).mean()),
        same_text=_share_of_same(outputs.alone, outputs.source, whole),
        same_short_text=_share_of_same(outputs.alone, outputs.source, cuts),
        same_batched_text=_share_of_same(outputs.batched, outputs.source, range(len(items))),
        cer_before=_cer(references, source),
        cer_after=max(_cer(references, alone), _cer(references, batched)),
        size_mb=sum(file.stat().st_size for file in graph_files(path)) / 1e6,
        real_time_factor=speed,
        source_real_time_factor=source_speed,
        provider=session.get_providers()[0],
    )


def _run_both(
    run_source: Callable[[np.ndarray], np.ndarray],
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    *,
    items: Sequence[np.ndarray],
    batches: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> _Outputs:
    """Run PyTorch (a waveform) and the graph (a batch) on `items`; the batches are indices of them."""
    transcribe = greedy_transcriber(tokenizer)
    outputs = _Outputs({}, {}, {}, [], [])
    for batch in tqdm(batches, desc=f"Comparing {name}", unit="batch"):
        group = [items[i] for i in batch]
        expected = [run_source(waveform) for waveform in group]
        alone, batched = [run([waveform])[0] for waveform in group], run(group)
        outputs.source |= zip(batch, map(transcribe, expected), strict=True)
        outputs.alone |= zip(batch, map(transcribe, alone), strict=True)
        outputs.batched |= zip(batch, map(transcribe, batched), strict=True)
        for found, exact in zip([*alone, *batched], [*expected, *expected], strict=True):
            if found.shape != exact.shape:
                raise ValueError(f"{name} gives {found.shape} where PyTorch gives {exact.shape}")
            outputs.differences.append(np.abs(found - exact).max(initial=0.0))
            outputs.divergences.append((np.exp(exact) * (exact - found)).sum(-1))
    return outputs


def greedy_transcriber(tokenizer: PreTrainedTokenizerBase) -> Callable[[np.ndarray], str]:
    """Return a function from log-probabilities (frames, vocabulary) to the greedy transcript."""
    decoder = GreedyDecoder(blank=tokenizer.pad_token_id)

    def transcribe(log_probs: np.ndarray) -> str:
        search = decoder.begin()
        decoder.advance([search], [decoder.keep(torch.from_numpy(log_probs))])
        return to_text(decoder.finish([search])[0][0], tokenizer)

    return transcribe


def short_cuts(waveforms: Sequence[np.ndarray], *, rate: int) -> list[np.ndarray]:
    """Return the beginnings of the first utterances, of the lengths `SHORT_SECONDS` in turn; `rate` is in Hz."""
    first = waveforms[:SHORT_UTTERANCES]
    return [waveform[: round(SHORT_SECONDS[i % len(SHORT_SECONDS)] * rate)] for i, waveform in enumerate(first)]


def mixed_batches(utterances: int, cuts: int) -> Iterator[list[int]]:
    """Yield indices of batches: whole utterances with one cut each, then cuts only. The indices of cuts come last."""
    for number, start in enumerate(range(0, utterances, BATCH - 1)):
        yield [*range(start, min(start + BATCH - 1, utterances)), utterances + number % cuts]
    for start in range(utterances, utterances + cuts, BATCH):
        yield list(range(start, min(start + BATCH, utterances + cuts)))


def graph_files(path: Path) -> list[Path]:
    """Return the files of a graph: OpenVINO stores the weights in a second file."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def runners(
    session: onnxruntime.InferenceSession, path: Path, *, model: ConformerForCTC, processor: ConformerProcessor
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[Sequence[np.ndarray]], list[np.ndarray]], bool]:
    """Return functions to log-probabilities (frames, vocabulary), and whether they encode live audio chunk by chunk.

    The first one runs PyTorch on a waveform (samples,), the second one runs the graph on a batch of waveforms.
    """
    names, options = {value.name for value in session.get_inputs()}, {"model": model, "processor": processor}
    if "offset" not in names:
        return source_runner(**options), partial(run_graph, session, **options), False
    if "x" in names:
        return *sherpa_streaming.runners(session, **options), True
    source, graph = (
        live.stream_runner(side, processor.feature_extractor)
        for side in (model, OrtConformerForCTC(session, model.config, path))
    )
    return lambda waveform: source([waveform])[0], graph, True


def source_runner(model: ConformerForCTC, processor: ConformerProcessor) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a waveform (samples,) to PyTorch's log-probabilities (frames, vocabulary)."""

    @torch.inference_mode()
    def run(waveform: np.ndarray) -> np.ndarray:
        inputs = processor(waveform, sampling_rate=processor.feature_extractor.sampling_rate).to(model.device)
        # If there is no feature frame, the model still computes one output frame, which is ignored.
        frames = int(model.get_output_lengths(inputs["attention_mask"].sum(-1))[0])
        return model(**inputs).logits[0, :frames].float().log_softmax(-1).cpu().numpy()

    return run


def graph_inputs(
    session: onnxruntime.InferenceSession, waveforms: Sequence[np.ndarray], *, processor: ConformerProcessor
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph for waveforms (samples,), padded to the longest one, for each kind of graph."""
    names = [value.name for value in session.get_inputs()]
    if names == ["waveforms", "lengths"]:
        lengths = np.array([len(waveform) for waveform in waveforms])
        padded = [np.pad(waveform, (0, lengths.max() - len(waveform))) for waveform in waveforms]
        return {"waveforms": np.stack(padded), "lengths": lengths}
    extractor = processor.feature_extractor
    if names == ["x", "x_lens"]:
        return sherpa.inputs(extractor, waveforms)
    features = extractor(list(waveforms), return_tensors="np", sampling_rate=extractor.sampling_rate)
    return {name: features[name] for name in names}


def run_graph(
    session: onnxruntime.InferenceSession,
    waveforms: Sequence[np.ndarray],
    *,
    model: ConformerForCTC,
    processor: ConformerProcessor,
) -> list[np.ndarray]:
    """Run a graph on waveforms (samples,) as one batch.

    Returns:
        The log-probabilities of each waveform, (frames, vocabulary) without padding, as `source_runner` returns them.
    """
    inputs = graph_inputs(session, waveforms, processor=processor)
    log_probs, *lengths = session.run(None, inputs)
    if not lengths:
        lengths = [model.get_output_lengths(torch.from_numpy(inputs["attention_mask"].sum(-1))).numpy()]
    return [row[:length] for row, length in zip(log_probs, lengths[0], strict=True)]


def _speeds(runs: Sequence[Callable], waveforms: Sequence[np.ndarray], *, rate: int) -> list[float]:
    """Return the real-time factor of each function: the median of three interleaved rounds."""
    audio = sum(len(waveform) for waveform in waveforms) / rate
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(3):
        for run, values in zip(runs, times, strict=True):
            started = time.perf_counter()
            for waveform in waveforms:
                run(waveform)
            values.append((time.perf_counter() - started) / audio)
    return [statistics.median(values) for values in times]


def _share_of_same(texts: dict[int, str], others: dict[int, str], indices: Sequence[int]) -> float:
    return sum(texts[i] == others[i] for i in indices) / len(indices)


def _cer(references: Sequence[str], texts: Sequence[str]) -> float:
    counts = count_errors(references, texts, unit="character")
    return float(counts[:, :3].sum() / max(1, counts[:, 3].sum()))
