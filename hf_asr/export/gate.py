"""The gate: an exported graph beside PyTorch on real utterances, before anybody trusts it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm.auto import tqdm

from ..model import ConformerForCTC, ConformerProcessor
from ..scoring.metrics import count_errors
from . import sherpa

MAX_CER_LOSS = 0.003  # what int8 may cost
SPEED_UTTERANCES = 20
SHORT_UTTERANCES, SHORT_SECONDS = 20, 0.3  # cut to less than `min_duration`: there a graph adds silence itself


@dataclass
class Comparison:
    """A graph against its source.

    Attributes:
        max_difference: Largest difference of log-probabilities, over real frames and all tokens, the short cuts too.
        same_text: Share of utterances with the same greedy transcript.
        same_short_text: The same of the first of them, cut to 0.3 s.
        cer_before, cer_after: Against the transcripts; where there are none, against PyTorch's own text.
        size_mb: Of the file, in 10^6 bytes.
        real_time_factor, source_real_time_factor: Computing time over audio, one utterance at a time, features included
            on both sides: the graph's and PyTorch's, medians of interleaved runs.
        provider: Where the graph ran.
    """

    file: str
    utterances: int
    max_difference: float
    same_text: float
    same_short_text: float
    cer_before: float
    cer_after: float
    size_mb: float
    real_time_factor: float
    source_real_time_factor: float
    provider: str

    def refusal(self, tolerance: float | None) -> str | None:
        """Why the graph must not be used, or None. Without `tolerance`, the greatest difference does not count."""
        if tolerance is not None and not self.max_difference <= tolerance:
            return f"{self.file} differs from PyTorch by {self.max_difference:.2g}, more than {tolerance:g}"
        if self.cer_after - self.cer_before > MAX_CER_LOSS:
            return (
                f"{self.file} costs {100 * (self.cer_after - self.cer_before):.2f} points of CER "
                f"({self.cer_before:.2%} -> {self.cer_after:.2%}), more than {100 * MAX_CER_LOSS:g}"
            )
        return None

    def as_dict(self) -> dict:
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def compare(
    session: onnxruntime.InferenceSession,
    path: Path,
    model: ConformerForCTC,
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray],
    references: Sequence[str] | None,
) -> Comparison:
    """Runs both on each utterance, alone, and on short cuts of the first ones.

    Args:
        waveforms: Mono float32 (samples,) each, at the model's rate.
        references: Transcripts; None takes PyTorch's own.
    """
    run, reference_run = graph_runner(session, processor), source_runner(model, processor)
    rate, count = processor.feature_extractor.sampling_rate, len(waveforms)
    cuts = [waveform[: round(SHORT_SECONDS * rate)] for waveform in waveforms[:SHORT_UTTERANCES]]
    differences, texts, source_texts = [], [], []
    for waveform in tqdm([*waveforms, *cuts], desc=f"Comparing {path.name}", unit="utterance"):
        found, expected = run(waveform), reference_run(waveform)
        if found.shape != expected.shape:
            raise ValueError(f"{path.name} gives {found.shape} where PyTorch gives {expected.shape}: a bug, report it")
        differences.append(np.abs(found - expected).max(initial=0.0))
        texts.append(processor.tokenizer.decode(found.argmax(-1).tolist()))
        source_texts.append(processor.tokenizer.decode(expected.argmax(-1).tolist()))
    is_same = [a == b for a, b in zip(texts, source_texts, strict=True)]
    texts, source_texts = texts[:count], source_texts[:count]
    normalize = processor.tokenizer.normalize
    references = source_texts if references is None else [normalize(text) for text in references]
    speed, source_speed = _speeds([run, reference_run], waveforms[:SPEED_UTTERANCES], rate=rate)
    return Comparison(
        file=path.name,
        utterances=count,
        max_difference=float(np.max(differences)),  # NaN, if there is one
        same_text=sum(is_same[:count]) / count,
        same_short_text=sum(is_same[count:]) / len(cuts),
        cer_before=_cer(references, source_texts, normalize),
        cer_after=_cer(references, texts, normalize),
        size_mb=sum(file.stat().st_size for file in graph_files(path)) / 1e6,
        real_time_factor=speed,
        source_real_time_factor=source_speed,
        provider=session.get_providers()[0],
    )


def graph_files(path: Path) -> list[Path]:
    """A graph, and where OpenVINO keeps its weights."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def source_runner(model: ConformerForCTC, processor: ConformerProcessor) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a waveform (samples,) to log-probabilities (frames, vocabulary), by PyTorch."""

    @torch.inference_mode()
    def run(waveform: np.ndarray) -> np.ndarray:
        inputs = processor(waveform, sampling_rate=processor.feature_extractor.sampling_rate).to(model.device)
        return model(**inputs).logits[0].float().log_softmax(-1).cpu().numpy()

    return run


def graph_inputs(
    session: onnxruntime.InferenceSession, processor: ConformerProcessor, waveform: np.ndarray
) -> dict[str, np.ndarray]:
    """What a graph takes for one waveform (samples,), whichever inputs it has."""
    names = [value.name for value in session.get_inputs()]
    if names == ["waveforms", "lengths"]:
        return {"waveforms": waveform[None], "lengths": np.array([len(waveform)])}
    extractor = processor.feature_extractor
    if names == ["x", "x_lens"]:
        return sherpa.inputs(extractor, waveform)
    features = extractor(waveform, return_tensors="np", sampling_rate=extractor.sampling_rate)
    return {name: features[name] for name in names}


def graph_runner(
    session: onnxruntime.InferenceSession, processor: ConformerProcessor
) -> Callable[[np.ndarray], np.ndarray]:
    """The same by a graph."""
    return lambda waveform: session.run(None, graph_inputs(session, processor, waveform))[0][0]


def _speeds(
    runs: Sequence[Callable[[np.ndarray], np.ndarray]], waveforms: Sequence[np.ndarray], *, rate: int
) -> list[float]:
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


def _cer(references: Sequence[str], texts: Sequence[str], normalize: Callable[[str], str]) -> float:
    counts = count_errors(references, [normalize(text) for text in texts], unit="character")
    return float(counts[:, :3].sum() / max(1, counts[:, 3].sum()))
