"""The gate: an exported graph beside PyTorch on real utterances, before anybody trusts it."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm.auto import tqdm

from ..model import ConformerForCTC, ConformerProcessor
from ..scoring.metrics import count_errors
from . import sherpa

MAX_CER_LOSS = 0.003  # what a graph may cost
MIN_CHARACTERS = math.ceil(1 / MAX_CER_LOSS)  # with fewer, a single error would be more than that
# Nats per frame, on average. Trained models gave 0.00002 to 0.0008 in int8 and 0.0000001 in float16; an int8 graph with
# all scales a tenth too large 0.004, with one layer's scale at zero 0.005.
MAX_DIVERGENCE = 0.003
BATCH = 8  # utterances; TensorRT's engine takes up to 16
SPEED_UTTERANCES = 20
SHORT_UTTERANCES, SHORT_SECONDS = 24, (0.3, 0.1, 0.02)  # less than `min_duration`: there a graph adds silence itself


@dataclass(frozen=True)
class Limits:
    """How far a graph may be from its source; see `Comparison`."""

    max_difference: float = math.inf
    max_divergence: float = MAX_DIVERGENCE
    max_cer_loss: float = MAX_CER_LOSS
    min_characters: int = 0


@dataclass
class Comparison:
    """A graph against its source, over real frames of utterances alone, of short cuts, and of padded batches of both.

    Attributes:
        characters: How many PyTorch writes for the utterances.
        max_difference: Largest difference of log-probabilities of any token.
        divergence: Kullback-Leibler divergence of the graph's probabilities from PyTorch's, nats per frame on average.
        same_text: Share of utterances with the same greedy transcript, alone.
        same_short_text: The same of the first of them, cut to 0.3, 0.1 and 0.02 s.
        same_batched_text: The same of utterances and cuts in batches.
        cer_before, cer_after: Against the transcripts; after, alone or in batches, whichever is higher.
        size_mb: Of the file, in 10^6 bytes.
        real_time_factor, source_real_time_factor: Computing time over audio, one utterance at a time, features included
            on both sides: the graph's and PyTorch's, medians of interleaved runs.
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
        """Say why the graph must not be used, or None. What is no number is refused."""
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
                f"{limits.min_characters} one error decides. Raise --max_utterances, or give more speech that "
                "the checkpoint transcribes"
            )
        if not self.cer_after - self.cer_before <= limits.max_cer_loss:
            return (
                f"{self.file} costs {100 * (self.cer_after - self.cer_before):.2f} points of CER "
                f"({self.cer_before:.2%} -> {self.cer_after:.2%}), more than {100 * limits.max_cer_loss:g}"
            )
        return None

    def as_dict(self) -> dict:
        return {name: round(value, 9) if isinstance(value, float) else value for name, value in asdict(self).items()}


def compare(
    session: onnxruntime.InferenceSession,
    path: Path,
    model: ConformerForCTC,
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray],
    references: Sequence[str],
) -> Comparison:
    """Run both on each utterance and on short cuts of the first ones; the graph alone, and in padded batches.

    Args:
        waveforms: Mono float32 (samples,) each, at the model's rate.
        references: Transcripts.

    Raises:
        ValueError: The graph gives another number of frames.
    """
    tokenizer, rate = processor.tokenizer, processor.feature_extractor.sampling_rate
    reference_run = source_runner(model, processor)
    texts: dict[str, dict[int, str]] = {"source": {}, "alone": {}, "batched": {}}  # by place; cuts come after the rest
    differences, divergences = [], []
    items = [*waveforms, *short_cuts(waveforms, rate=rate)]
    batches = list(mixed_batches(len(waveforms), len(items) - len(waveforms)))
    for batch in tqdm(batches, desc=f"Comparing {path.name}", unit="batch"):
        group = [items[place] for place in batch]
        expected = [reference_run(waveform) for waveform in group]
        alone = [run_graph(session, model, processor, [waveform])[0] for waveform in group]
        batched = run_graph(session, model, processor, group)
        for kind, outputs in (("source", expected), ("alone", alone), ("batched", batched)):
            decoded = [tokenizer.decode(output.argmax(-1).tolist()) for output in outputs]
            texts[kind] |= dict(zip(batch, decoded, strict=True))
        for found, exact in zip([*alone, *batched], [*expected, *expected], strict=True):
            if found.shape != exact.shape:
                raise ValueError(f"{path.name} gives {found.shape} where PyTorch gives {exact.shape}")
            differences.append(np.abs(found - exact).max(initial=0.0))
            divergences.append((np.exp(exact) * (exact - found)).sum(-1))  # (frames,)
    whole, cuts = range(len(waveforms)), range(len(waveforms), len(items))
    references = [tokenizer.normalize(text) for text in references]
    written = {kind: [tokenizer.normalize(found[place]) for place in whole] for kind, found in texts.items()}
    speed, source_speed = _speeds(
        [lambda waveform: run_graph(session, model, processor, [waveform]), reference_run],
        waveforms[:SPEED_UTTERANCES],
        rate=rate,
    )
    return Comparison(
        file=path.name,
        utterances=len(waveforms),
        characters=sum(map(len, written["source"])),
        max_difference=float(np.max(differences)),  # NaN, if there is one
        divergence=float(np.concatenate(divergences).mean()),
        same_text=_share_of_same(texts["alone"], texts["source"], whole),
        same_short_text=_share_of_same(texts["alone"], texts["source"], cuts),
        same_batched_text=_share_of_same(texts["batched"], texts["source"], range(len(items))),
        cer_before=_cer(references, written["source"]),
        cer_after=max(_cer(references, written["alone"]), _cer(references, written["batched"])),
        size_mb=sum(file.stat().st_size for file in graph_files(path)) / 1e6,
        real_time_factor=speed,
        source_real_time_factor=source_speed,
        provider=session.get_providers()[0],
    )


def short_cuts(waveforms: Sequence[np.ndarray], *, rate: int) -> list[np.ndarray]:
    """The beginnings of the first utterances, of one length after another."""
    first = waveforms[:SHORT_UTTERANCES]
    return [waveform[: round(SHORT_SECONDS[place % len(SHORT_SECONDS)] * rate)] for place, waveform in enumerate(first)]


def mixed_batches(utterances: int, cuts: int) -> Iterator[list[int]]:
    """Places of utterances, a cut among those of each batch, and then of the cuts among themselves."""
    for number, start in enumerate(range(0, utterances, BATCH - 1)):
        yield [*range(start, min(start + BATCH - 1, utterances)), utterances + number % cuts]
    for start in range(utterances, utterances + cuts, BATCH):
        yield list(range(start, min(start + BATCH, utterances + cuts)))


def graph_files(path: Path) -> list[Path]:
    """A graph, and where OpenVINO keeps its weights."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def source_runner(model: ConformerForCTC, processor: ConformerProcessor) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a waveform (samples,) to log-probabilities (frames, vocabulary), by PyTorch."""

    @torch.inference_mode()
    def run(waveform: np.ndarray) -> np.ndarray:
        inputs = processor(waveform, sampling_rate=processor.feature_extractor.sampling_rate).to(model.device)
        frames = int(model.get_output_lengths(inputs["attention_mask"].sum(-1))[0])  # one is computed of none
        return model(**inputs).logits[0, :frames].float().log_softmax(-1).cpu().numpy()

    return run


def graph_inputs(
    session: onnxruntime.InferenceSession, processor: ConformerProcessor, waveforms: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """What a graph takes for waveforms (samples,), padded to the longest, whichever inputs it has."""
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
    model: ConformerForCTC,
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """The same as `source_runner`'s by a graph, of each of a batch: (frames, vocabulary), without padding."""
    inputs = graph_inputs(session, processor, waveforms)
    log_probs, *lengths = session.run(None, inputs)
    if not lengths:
        lengths = [model.get_output_lengths(torch.from_numpy(inputs["attention_mask"].sum(-1))).numpy()]
    return [row[:length] for row, length in zip(log_probs, lengths[0], strict=True)]


def _speeds(runs: Sequence[Callable], waveforms: Sequence[np.ndarray], *, rate: int) -> list[float]:
    """Real-time factor of each, the medians of three interleaved rounds."""
    audio = sum(len(waveform) for waveform in waveforms) / rate
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(3):
        for place, run in enumerate(runs):
            started = time.perf_counter()
            for waveform in waveforms:
                run(waveform)
            times[place].append((time.perf_counter() - started) / audio)
    return [statistics.median(values) for values in times]


def _share_of_same(texts: dict[int, str], others: dict[int, str], places: Sequence[int]) -> float:
    return sum(texts[place] == others[place] for place in places) / len(places)


def _cer(references: Sequence[str], texts: Sequence[str]) -> float:
    counts = count_errors(references, texts, unit="character")
    return float(counts[:, :3].sum() / max(1, counts[:, 3].sum()))
