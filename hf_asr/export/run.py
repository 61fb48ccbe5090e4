"""`scripts/export.py` and `optimum-cli export hf-asr`: a checkpoint becomes files that other runtimes load."""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import onnxruntime

from ..checkpoint import load_checkpoint
from ..data.audio import AudioError
from ..data.sources import load_source, read_row
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..files import write_text
from ..model import ConformerForCTC, ConformerProcessor
from ..provenance import public_name, weights_sha256
from . import sherpa
from .arguments import add_arguments
from .gate import Comparison, compare, graph_files, graph_inputs
from .graphs import EXPORTERS, half_precision
from .onnx import export_onnx, quantize_int8
from .openvino import OpenVinoSession, convert
from .providers import ENGINE, GRAPH, PROFILE, SHAPES, open_session, tensorrt_profile

FLOAT16_TOLERANCE = 0.5  # of log-probabilities, where float16 keeps three digits of numbers up to a hundred
CALIBRATION_UTTERANCES = 64
MAX_SECONDS = 30.0  # of an utterance: longer recordings are transcribed in windows of this length


@dataclass
class Utterances:
    """What a graph is tried on: mono waveforms at the model's rate, their transcripts if any, and what they are."""

    waveforms: list[np.ndarray]
    references: list[str] | None
    description: str


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_asr").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    add_arguments(parser)
    run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """Ends in one line for errors that a person can mend."""
    datasets.disable_progress_bars()
    try:
        export(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def export(args: argparse.Namespace) -> None:
    """Writes the graphs, the processor and `export_report.json` into `args.output_dir`.

    Raises:
        ValueError: A checkpoint that the target cannot carry; a graph that the gate refuses, which is not left behind,
            while those before it are.
    """
    model, processor = load_checkpoint(args.model_name_or_path, device="cpu")
    check(args, model, processor)
    exporter = "sherpa-onnx" if args.target == "sherpa-onnx" else "onnx-waveform" if args.with_frontend else "onnx"
    rate = processor.feature_extractor.sampling_rate
    utterances = load_utterances(args, split=args.eval_split_name, rate=rate)
    metadata = sherpa.metadata(model.config) if args.target == "sherpa-onnx" else None
    tolerance = EXPORTERS[exporter].ATOL_FOR_VALIDATION
    output_dir, name = args.output_dir, "model_with_frontend" if args.with_frontend else "model"
    source = output_dir / f"{name}.onnx"
    output_dir.mkdir(parents=True, exist_ok=True)

    def admit(path: Path, session, tolerance: float | None) -> None:
        """Compares, and keeps the graph with what goes with it."""
        comparison = compare(session, path, model, processor, utterances.waveforms, utterances.references)
        print(summary(comparison))
        refusal = comparison.refusal(tolerance)
        if refusal and not args.allow_differences:
            raise ValueError(f"{refusal} on {utterances.description}; --allow_differences keeps it nevertheless")
        for file in graph_files(path):
            file.replace(output_dir / file.name)
        model.config.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        if args.target == "sherpa-onnx":
            sherpa.write_tokens(output_dir / "tokens.txt", processor.tokenizer)
        entry = comparison.as_dict() | {"target": args.target, "tried_on": utterances.description}
        entry["model_sha256"] = weights_sha256(args.model_name_or_path)
        write_report(output_dir / "export_report.json", entry)

    with tempfile.TemporaryDirectory(dir=output_dir) as folder:
        work = Path(folder)
        path = work / source.name
        export_onnx(model, processor.feature_extractor, path, exporter=exporter, metadata=metadata)
        admit(path, open_session(path, provider="cpu"), tolerance)
        if args.quantize == "fp16":
            path = work / f"{name}.fp16.onnx"
            export_onnx(half_precision(model), processor.feature_extractor, path, exporter=exporter, metadata=metadata)
            admit(path, open_session(path, provider="cpu"), FLOAT16_TOLERANCE)
        if args.quantize in ("int8", "int8-static") or args.target == "sherpa-onnx":
            path, calibration = work / f"{name}.int8.onnx", None
            if args.quantize == "int8-static":
                split = args.calibration_split_name
                found = load_utterances(args, split=split, limit=CALIBRATION_UTTERANCES, rate=rate)
                session = open_session(source, provider="cpu")
                calibration = [graph_inputs(session, processor, waveform) for waveform in found.waveforms]
            quantize_int8(source, path, calibration=calibration)
            admit(path, open_session(path, provider="cpu"), None)
        if args.target == "openvino":
            path = work / f"{name}.xml"
            convert(source, path)
            admit(path, OpenVinoSession(path), tolerance)
        if args.target == "tensorrt" and (session := build_engine(output_dir, model.config.num_mel_bins)):
            admit(source, session, FLOAT16_TOLERANCE)
    print(f"{output_dir}: {', '.join(sorted(path.name for path in output_dir.glob('model*')))}, export_report.json")


def check(args: argparse.Namespace, model: ConformerForCTC, processor: ConformerProcessor) -> None:
    """Raises ValueError for what the target cannot carry."""
    if not isinstance(model, ConformerForCTC):
        raise ValueError(
            f"{args.model_name_or_path} is no PyTorch checkpoint of ours but {type(model).__name__}: models of other "
            "families are exported by optimum-onnx"
        )
    if args.target == "sherpa-onnx" and (
        reason := sherpa.refusal(processor.feature_extractor, allow_differences=args.allow_differences)
    ):
        raise ValueError(reason)
    if args.with_frontend and args.target != "onnx":
        raise ValueError(f"--with_frontend goes with --target onnx; {args.target} computes or takes features")
    if args.with_frontend and processor.feature_extractor.denoise:
        raise ValueError("this checkpoint relies on denoising, which a graph cannot carry: export it without frontend")
    if args.quantize and args.target in ("tensorrt", "openvino"):
        raise ValueError(f"--quantize goes with onnx and sherpa-onnx; {args.target} chooses its precision itself")
    if args.quantize == "int8-static" and not args.dataset_name:
        raise ValueError("--quantize int8-static finds ranges in recordings: give --dataset_name")


def load_utterances(args: argparse.Namespace, *, split: str, rate: int, limit: int | None = None) -> Utterances:
    """Recordings of a split, a seeded choice of them; without a dataset, sentences that espeak-ng speaks."""
    limit = limit or args.max_utterances
    if args.dataset_name is None:
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"train_sentences": 1, "validation_sentences": min(40, limit)}
            rows = load_source(
                str(make_corpus(Path(folder) / "spoken", SyntheticCorpusArguments(**sizes))), split="validation"
            )
            waveforms = [read_row(row, sampling_rate=rate) for row in rows]
        return Utterances(waveforms, None, f"{len(waveforms)} sentences of espeak-ng, against PyTorch's text")
    rows = load_source(args.dataset_name, split=split, config_name=args.dataset_config_name)
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    waveforms, references = [], []
    for row in rows.select(sorted(order)):
        try:
            waveforms.append(read_row(row, sampling_rate=rate, max_seconds=MAX_SECONDS))
            references.append(row["text"])
        except AudioError as error:
            print(f"left out: {row['audio']['path']}: {error}", file=sys.stderr)
    if not waveforms:
        raise ValueError(f"{args.dataset_name}: no readable recording in {split!r}")
    name = public_name(args.dataset_name)
    return Utterances(waveforms, references, f"{len(waveforms)} utterances of {name}, {split!r}")


def summary(comparison: Comparison) -> str:
    """A line for a person."""
    faster = comparison.source_real_time_factor / comparison.real_time_factor
    return (
        f"{comparison.file}: differs by at most {comparison.max_difference:.1e}, same text for "
        f"{comparison.same_text:.1%} of {comparison.utterances} ({comparison.same_short_text:.1%} cut short), CER "
        f"{comparison.cer_before:.2%} -> {comparison.cer_after:.2%}, {comparison.size_mb:.1f} MB, real-time factor "
        f"{comparison.real_time_factor:.4f} ({faster:.2f} times as fast as PyTorch)"
    )


def write_report(path: Path, entry: dict) -> None:
    """`export_report.json`: an entry takes the place of an earlier one of the same graph where it ran."""
    graphs = json.loads(path.read_text(encoding="utf-8"))["graphs"] if path.is_file() else []
    key = (entry["file"], entry["provider"])
    graphs = [item for item in graphs if (item["file"], item["provider"]) != key] + [entry]
    write_text(path, json.dumps({"graphs": graphs}, ensure_ascii=False, indent=2) + "\n")


def build_engine(output_dir: Path, num_mel_bins: int) -> onnxruntime.InferenceSession | None:
    """Writes the profile, and builds the engine where there are a GPU and TensorRT; else says what is missing."""
    # onnxruntime tells engines apart by the graph's names, not by its weights
    shutil.rmtree(output_dir / ENGINE, ignore_errors=True)
    write_text(output_dir / PROFILE, json.dumps(tensorrt_profile(num_mel_bins), indent=2) + "\n")
    try:
        session = open_session(output_dir / GRAPH, provider="tensorrt")
    except ValueError as error:
        print(f"no engine was built: {error}. {GRAPH} and {PROFILE} are ready for a machine that has them")
        return None
    for batch, frames in SHAPES.values():
        features = np.zeros((batch, frames, num_mel_bins), np.float32)
        session.run(None, {"input_features": features, "attention_mask": np.ones((batch, frames), np.int64)})
    print(f"{output_dir / ENGINE}: built, and run at the least, usual and greatest shape")
    return session
