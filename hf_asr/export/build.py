"""Build the graphs of a target, check each against its source, and keep the ones that pass."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..files import GRAPH, STREAMING_GRAPH, write_text
from ..model import ConformerForCTC, ConformerProcessor
from ..runtime.openvino import OpenVinoSession
from ..runtime.providers import ENGINE, PROFILE, SHAPES, open_session, tensorrt_profile
from .check import MIN_CHARACTERS, GraphComparison, Limits, compare_with_source, graph_files, graph_inputs, short_cuts
from .folder import remove
from .graphs import EXPORTERS, half_precision
from .int8 import quantize_int8
from .onnx import export_onnx
from .openvino import convert
from .utterances import Utterances, named_utterances

INT8 = Limits(min_characters=MIN_CHARACTERS)
# Float16 has three significant digits, and log-probabilities reach -100.
FLOAT16 = Limits(max_difference=0.5, min_characters=MIN_CHARACTERS)
CALIBRATION_UTTERANCES = 64


@dataclass
class GraphBuilder:
    """Builds graphs of one checkpoint in `folder` and checks them.

    Attributes:
        keeps_refused: Keep graphs that the check refuses, with the reason.
        facts: What else the entries of all graphs have.
        graphs: Entries of `export_report.json` for the graphs that are kept.
        refused: Entries for the others.
    """

    model: ConformerForCTC
    processor: ConformerProcessor
    utterances: Utterances
    folder: Path
    target: str
    model_sha256: str | None = None
    keeps_refused: bool = False
    facts: dict = field(default_factory=dict)
    graphs: list[dict] = field(default_factory=list)
    refused: list[dict] = field(default_factory=list)

    def add(self, name: str, build: Callable[[Path], Any], limits: Limits, *, owns: Sequence[str] = ()) -> bool:
        """Build a graph and check it; return whether it is kept.

        Args:
            build: Writes the file and returns a session on it.
            owns: Names of what to remove if the graph is refused; by default, the graph's own files.
        """
        path, comparison = self.folder / name, None
        try:
            comparison = self._check(build(path), path)
            reason = comparison.refusal(limits)
        except Exception as error:  # of runtimes, which have their own classes; the other graphs are still built
            reason = f"{name} cannot be made or run: {one_line(error)}".replace(f"{self.folder}/", "")
        facts = {"target": self.target, "tried_on": self.utterances.description, "model_sha256": self.model_sha256}
        facts |= self.facts
        entry = {"file": name} | facts
        if comparison is not None:
            print(summary(comparison))
            entry = comparison.as_dict() | facts
        if reason is None:
            self.graphs.append(entry)
            return True
        if comparison is not None and self.keeps_refused:
            print(f"kept nevertheless: {reason}")
            self.graphs.append(entry | {"reason": reason})
            return True
        if comparison is not None:
            provider = comparison.provider.removesuffix("ExecutionProvider")
            reason += f" (on {self.utterances.description}, by {provider}); --allow_differences keeps it nevertheless"
        self.refused.append(entry | {"reason": reason})
        for owned in owns or [file.name for file in graph_files(path)]:
            remove(self.folder / owned)
        return False

    def _check(self, session: Any, path: Path) -> GraphComparison:
        return compare_with_source(
            session,
            path,
            model=self.model,
            processor=self.processor,
            waveforms=self.utterances.waveforms,
            references=self.utterances.references,
        )


def build_graphs(args: argparse.Namespace, builder: GraphBuilder) -> None:
    """Build and check the graphs that the arguments name."""
    exporter = "sherpa-onnx" if args.target == "sherpa-onnx" else "onnx-waveform" if args.with_frontend else "onnx"
    source = builder.folder / ("model_with_frontend.onnx" if args.with_frontend else GRAPH)
    if args.streaming:
        exporter, source = f"{args.target}-streaming", builder.folder / STREAMING_GRAPH
    name, exact = source.stem, Limits(max_difference=EXPORTERS[exporter].ATOL_FOR_VALIDATION)
    model, num_mel_bins = builder.model, builder.model.config.num_mel_bins

    def trace(traced: ConformerForCTC, path: Path) -> onnxruntime.InferenceSession:
        export_onnx(traced, builder.processor.feature_extractor, path, exporter=exporter)
        return open_session(path, provider="cpu")

    def quantize(path: Path) -> onnxruntime.InferenceSession:
        calibration = calibration_inputs(args, source, builder.processor) if args.quantize == "int8-static" else None
        quantize_int8(source, path, calibration=calibration)
        return open_session(path, provider="cpu")

    def convert_to_openvino(path: Path) -> OpenVinoSession:
        convert(source, path)
        return OpenVinoSession(path)

    is_kept = builder.add(source.name, lambda path: trace(model, path), exact)
    if args.quantize == "fp16":
        builder.add(f"{name}.fp16.onnx", lambda path: trace(half_precision(model), path), FLOAT16)
    if not is_kept:  # the other graphs are made from it
        return
    if args.quantize in ("int8", "int8-static") or args.target == "sherpa-onnx":
        builder.add(f"{name}.int8.onnx", quantize, INT8)
    if args.target == "openvino":
        builder.add(f"{name}.xml", convert_to_openvino, exact)
    if args.target == "tensorrt" and (session := start_tensorrt(builder.folder, num_mel_bins)):
        # If the engine is refused, the profile is removed as well: with a profile, the provider `auto` uses TensorRT.
        owns = [PROFILE, ENGINE]
        builder.add(GRAPH, lambda _: build_engine(session, num_mel_bins), FLOAT16, owns=owns)


def calibration_inputs(
    args: argparse.Namespace, source: Path, processor: ConformerProcessor
) -> list[dict[str, np.ndarray]]:
    """Return inputs of the graph `source` on which static quantisation measures the ranges of activations."""
    rate = processor.feature_extractor.sampling_rate
    found = named_utterances(args, split=args.calibration_split_name, limit=CALIBRATION_UTTERANCES, rate=rate)
    session = open_session(source, provider="cpu")
    # Short recordings as well, for the ranges of the silence that follows them.
    waveforms = [*found.waveforms, *short_cuts(found.waveforms, rate=rate)]
    return [graph_inputs(session, [waveform], processor=processor) for waveform in waveforms]


def start_tensorrt(folder: Path, num_mel_bins: int) -> onnxruntime.InferenceSession | None:
    """Write the profile and open `model.onnx` with TensorRT; if that is not possible, print why and return None."""
    write_text(folder / PROFILE, json.dumps(tensorrt_profile(num_mel_bins), indent=2) + "\n")
    try:
        return open_session(folder / GRAPH, provider="tensorrt")
    except ValueError as error:
        print(f"no engine was built: {one_line(error)}. {GRAPH} and {PROFILE} are ready for a machine that has them")
        return None


def build_engine(session: onnxruntime.InferenceSession, num_mel_bins: int) -> onnxruntime.InferenceSession:
    """Build TensorRT's engine by running the session on each shape of the profile; return the session."""
    for batch, frames in SHAPES.values():
        features = np.zeros((batch, frames, num_mel_bins), np.float32)
        session.run(None, {"input_features": features, "attention_mask": np.ones((batch, frames), np.int64)})
    return session


def summary(comparison: GraphComparison) -> str:
    """Return a comparison as one line for the terminal."""
    faster = comparison.source_real_time_factor / comparison.real_time_factor
    return (
        f"{comparison.file}: differs by at most {comparison.max_difference:.1e} ({comparison.divergence:.1e} nats per "
        f"frame), same text for {comparison.same_text:.1%} of {comparison.utterances} "
        f"({comparison.same_short_text:.1%} cut short, {comparison.same_batched_text:.1%} in batches), CER "
        f"{comparison.cer_before:.2%} -> {comparison.cer_after:.2%}, {comparison.size_mb:.1f} MB, real-time factor "
        f"{comparison.real_time_factor:.4f} ({faster:.2f} times as fast as PyTorch)"
    )


def one_line(error: Exception) -> str:
    """Return the message of an error on one line, or its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
