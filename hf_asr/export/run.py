"""`scripts/export.py` and `optimum-cli export hf-asr`: a checkpoint becomes files that other runtimes load."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import onnxruntime

from ..checkpoint import load_checkpoint
from ..files import write_text
from ..model import ConformerForCTC, ConformerProcessor
from ..provenance import weights_sha256
from ..runtime.openvino import OpenVinoSession, import_openvino
from ..runtime.ort_model import OrtConformerForCTC
from ..runtime.providers import ENGINE, GRAPH, PROFILE, SHAPES, open_session, tensorrt_profile
from . import sherpa
from .arguments import add_arguments
from .folder import REPORT, TOKENS, check_folder, move_in, partial_folder, remove
from .gate import MIN_CHARACTERS, Comparison, Limits, compare, graph_files, graph_inputs, short_cuts
from .graphs import EXPORTERS, half_precision
from .onnx import export_onnx, quantize_int8
from .openvino import convert
from .utterances import Utterances, load_utterances, named_utterances

INT8 = Limits(min_characters=MIN_CHARACTERS)
# Float16 keeps three digits of log-probabilities up to a hundred.
FLOAT16 = Limits(max_difference=0.5, min_characters=MIN_CHARACTERS)
CALIBRATION_UTTERANCES = 64


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_asr").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """End in one line for errors that a person can mend, and in one for each graph that was refused."""
    datasets.disable_progress_bars()
    try:
        refused = export(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {one_line(error)}")
    if refused:
        sys.exit("\n".join(f"refused: {entry['reason']}" for entry in refused))


def export(args: argparse.Namespace) -> list[dict]:
    """Write the graphs that pass, the processor and `export_report.json` into `args.output_dir`; return the others.

    Raises:
        ValueError: A checkpoint that cannot be loaded or that the target cannot carry, or nothing to compare it on.
        ImportError: What the target needs is not installed.
    """
    check_arguments(args)
    model, processor = load_source_checkpoint(args.model_name_or_path)
    check_model(args, processor)
    utterances = load_utterances(args, model, processor)
    with partial_folder(args.output_dir) as folder:
        trial = Trial(model, processor, utterances, folder, args.target, keeps_refused=args.allow_differences)
        trial.model_sha256 = weights_sha256(args.model_name_or_path)
        try_graphs(args, trial)
        if trial.graphs:
            model.config.save_pretrained(folder)
            processor.save_pretrained(folder)
            if args.target == "sherpa-onnx":
                sherpa.write_tokens(folder / TOKENS, processor.tokenizer)
        move_in(folder, args.output_dir, graphs=trial.graphs, refused=trial.refused)
    names = sorted({entry["file"] for entry in trial.graphs}) or ["no graph was written"]
    print(f"{args.output_dir}: {', '.join(names)}; {REPORT}")
    return trial.refused


@dataclass
class Trial:
    """Graphs of one checkpoint that were made in `folder` and compared: those that stay, and those that are refused."""

    model: ConformerForCTC
    processor: ConformerProcessor
    utterances: Utterances
    folder: Path
    target: str
    keeps_refused: bool = False
    model_sha256: str | None = None
    graphs: list[dict] = field(default_factory=list)
    refused: list[dict] = field(default_factory=list)

    def add(self, name: str, make: Callable[[Path], Any], limits: Limits, *, owns: Sequence[str] = ()) -> bool:
        """Make a graph and compare it; return whether it stays.

        Args:
            make: Writes the file, and returns a session on it.
            owns: What is removed if it is refused; the graph's own files, if not given.
        """
        path, comparison = self.folder / name, None
        try:
            session = make(path)
            data = self.utterances.waveforms, self.utterances.references
            comparison = compare(session, path, self.model, self.processor, *data)
            reason = comparison.refusal(limits)
        except Exception as error:  # of runtimes, which have classes of their own: the other graphs are none the worse
            reason = f"{name} cannot be made or run: {one_line(error)}".replace(f"{self.folder}/", "")
        facts = {"target": self.target, "tried_on": self.utterances.description, "model_sha256": self.model_sha256}
        entry = {"file": name} | facts
        if comparison is not None:
            print(summary(comparison))
            entry = comparison.as_dict() | facts
        if reason is None:
            self.graphs.append(entry)
        elif comparison is not None and self.keeps_refused:
            print(f"kept nevertheless: {reason}")
            self.graphs.append(entry | {"reason": reason})
        else:
            if comparison is not None:
                place = comparison.provider.removesuffix("ExecutionProvider")
                reason += f" (on {self.utterances.description}, by {place}); --allow_differences keeps it nevertheless"
            self.refused.append(entry | {"reason": reason})
            for owned in owns or [file.name for file in graph_files(path)]:
                remove(self.folder / owned)
            return False
        return True


def try_graphs(args: argparse.Namespace, trial: Trial) -> None:
    """Make the graphs that the arguments ask for."""
    exporter = "sherpa-onnx" if args.target == "sherpa-onnx" else "onnx-waveform" if args.with_frontend else "onnx"
    name = "model_with_frontend" if args.with_frontend else "model"
    exact = Limits(max_difference=EXPORTERS[exporter].ATOL_FOR_VALIDATION)
    extractor, source = trial.processor.feature_extractor, trial.folder / f"{name}.onnx"
    options = {"exporter": exporter}
    if args.target == "sherpa-onnx":
        options["metadata"] = sherpa.metadata(trial.model.config)

    def float32(path: Path) -> onnxruntime.InferenceSession:
        export_onnx(trial.model, extractor, path, **options)
        return open_session(path, provider="cpu")

    def float16(path: Path) -> onnxruntime.InferenceSession:
        export_onnx(half_precision(trial.model), extractor, path, **options)
        return open_session(path, provider="cpu")

    def int8(path: Path) -> onnxruntime.InferenceSession:
        calibration = None
        if args.quantize == "int8-static":
            split, rate = args.calibration_split_name, extractor.sampling_rate
            found = named_utterances(args, split=split, limit=CALIBRATION_UTTERANCES, rate=rate)
            session = open_session(source, provider="cpu")
            # Ranges of the silence, too, that follows short recordings.
            waveforms = [*found.waveforms, *short_cuts(found.waveforms, rate=rate)]
            calibration = [graph_inputs(session, trial.processor, [waveform]) for waveform in waveforms]
        quantize_int8(source, path, calibration=calibration)
        return open_session(path, provider="cpu")

    def openvino(path: Path) -> OpenVinoSession:
        convert(source, path)
        return OpenVinoSession(path)

    is_there = trial.add(source.name, float32, exact)
    if args.quantize == "fp16":
        trial.add(f"{name}.fp16.onnx", float16, FLOAT16)
    if not is_there:  # the others are made of it
        return
    if args.quantize in ("int8", "int8-static") or args.target == "sherpa-onnx":
        trial.add(f"{name}.int8.onnx", int8, INT8)
    if args.target == "openvino":
        trial.add(f"{name}.xml", openvino, exact)
    if args.target == "tensorrt" and (session := start_engine(trial.folder, trial.model.config.num_mel_bins)):
        # With them `auto` would choose TensorRT.
        owns = [PROFILE, ENGINE]
        trial.add(GRAPH, lambda path: built(session, trial.model.config.num_mel_bins), FLOAT16, owns=owns)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ValueError or ImportError for what can be refused before anything is loaded."""
    if args.with_frontend and args.target != "onnx":
        raise ValueError(f"--with_frontend goes with --target onnx; {args.target} computes or takes features")
    if args.quantize and args.target in ("tensorrt", "openvino"):
        raise ValueError(f"--quantize goes with onnx and sherpa-onnx; {args.target} chooses its precision itself")
    if args.quantize == "int8-static" and not args.dataset_name:
        raise ValueError("--quantize int8-static finds ranges in recordings: give --dataset_name")
    if args.max_utterances < 1:
        raise ValueError(f"--max_utterances is 1 or more, not {args.max_utterances}")
    if args.target == "openvino":
        import_openvino()
    check_folder(args.output_dir, checkpoint=args.model_name_or_path)


def load_source_checkpoint(model_name_or_path: str) -> tuple[ConformerForCTC, ConformerProcessor]:
    """Load a PyTorch checkpoint of ours.

    Raises:
        ValueError: It is something else, or damaged.
    """
    try:
        model, processor = load_checkpoint(model_name_or_path, device="cpu")
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # of safetensors, of tokenizers, of missing or misshapen weights
        raise ValueError(f"{model_name_or_path} cannot be loaded: {error}") from error
    if isinstance(model, OrtConformerForCTC):
        raise ValueError(f"{model_name_or_path} is an exported graph: give the checkpoint that it was made from")
    if not isinstance(model, ConformerForCTC):
        raise ValueError(
            f"{model_name_or_path} is no checkpoint of ours but {type(model).__name__}: models of other families are "
            "exported by optimum-onnx"
        )
    return model, processor


def check_model(args: argparse.Namespace, processor: ConformerProcessor) -> None:
    """Raises ValueError for a checkpoint that the target cannot carry."""
    extractor = processor.feature_extractor
    if args.target == "sherpa-onnx" and (
        reason := sherpa.refusal(extractor, allow_other_features=args.allow_other_features)
    ):
        raise ValueError(reason)
    if args.with_frontend and extractor.denoise:
        raise ValueError("this checkpoint relies on denoising, which a graph cannot carry: export it without frontend")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def summary(comparison: Comparison) -> str:
    """A line for a person."""
    faster = comparison.source_real_time_factor / comparison.real_time_factor
    return (
        f"{comparison.file}: differs by at most {comparison.max_difference:.1e} ({comparison.divergence:.1e} nats per "
        f"frame), same text for {comparison.same_text:.1%} of {comparison.utterances} "
        f"({comparison.same_short_text:.1%} cut short, {comparison.same_batched_text:.1%} in batches), CER "
        f"{comparison.cer_before:.2%} -> {comparison.cer_after:.2%}, {comparison.size_mb:.1f} MB, real-time factor "
        f"{comparison.real_time_factor:.4f} ({faster:.2f} times as fast as PyTorch)"
    )


def start_engine(folder: Path, num_mel_bins: int) -> onnxruntime.InferenceSession | None:
    """Write the profile, and start TensorRT where it and a GPU are; else say what is missing."""
    write_text(folder / PROFILE, json.dumps(tensorrt_profile(num_mel_bins), indent=2) + "\n")
    try:
        return open_session(folder / GRAPH, provider="tensorrt")
    except ValueError as error:
        print(f"no engine was built: {one_line(error)}. {GRAPH} and {PROFILE} are ready for a machine that has them")
        return None


def built(session: onnxruntime.InferenceSession, num_mel_bins: int) -> onnxruntime.InferenceSession:
    """Build the engine, by running the least, usual and greatest shape."""
    for batch, frames in SHAPES.values():
        features = np.zeros((batch, frames, num_mel_bins), np.float32)
        session.run(None, {"input_features": features, "attention_mask": np.ones((batch, frames), np.int64)})
    return session
