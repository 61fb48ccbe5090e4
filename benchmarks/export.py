"""Compare exported graphs with PyTorch: size, CER, and real-time factor on one and two threads.

    python benchmarks/export.py --model_name_or_path runs/digits --dataset_name ../shared/data/digits_en
    python benchmarks/export.py --model_name_or_path runs/streaming --dataset_name runs/quickstart-corpus
        --chunk_size 16 --num_left_chunks 8

Each runtime transcribes the same recordings, one at a time, from waveform to text. Our extractor computes the features
if the graph or sherpa-onnx does not. Times are medians of interleaved rounds: leave the machine idle. The texts are
compared with PyTorch's for whole recordings and for the first 0.1, 0.2 and 0.3 s of each (with `--rounds 0`, only the
texts are compared). With `--chunk_size` and `--num_left_chunks`, the graphs are those for live audio, and all runtimes
encode chunk by chunk. Silence follows sherpa-onnx's recordings, because it encodes whole chunks only; its texts are
compared with PyTorch's for recordings with this silence, which changes the last words of some. Without
`--model_name_or_path`, the size and speed of a 12x256 Conformer with random weights are measured, on ten seconds of
noise.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from hf_asr import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerProcessor,
    ConformerTokenizer,
)
from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.arguments import ChunkArguments
from hf_asr.decoding.recognizer import with_chunks
from hf_asr.export import sherpa, sherpa_streaming
from hf_asr.export.check import greedy_transcriber, runners, source_runner
from hf_asr.export.graphs import EXPORTERS
from hf_asr.export.int8 import quantize_int8
from hf_asr.export.live import stream_runner
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.providers import open_session
from hf_asr.scoring.metrics import error_rates

Transcriber = Callable[[np.ndarray], str]
CUTS = (0.1, 0.2, 0.3)  # seconds
SILENCE = "PyTorch with silence"
RANDOM = {"hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 2048}


def random_model() -> tuple[ConformerForCTC, ConformerProcessor]:
    """Return a 12x256 model with the 4233 tokens that are usual for Mandarin, and its processor."""
    torch.manual_seed(0)
    tokenizer = ConformerTokenizer.from_texts(["".join(map(chr, range(0x4E00, 0x4E00 + 4230)))])
    config = ConformerConfig(**RANDOM, subsampling_depthwise=True, vocab_size=len(tokenizer))
    return ConformerForCTC(config).eval(), ConformerProcessor(ConformerFeatureExtractor(), tokenizer)


def export_all(
    model: ConformerForCTC, processor: ConformerProcessor, folder: Path, *, is_live: bool
) -> dict[str, Path]:
    """Export every kind of graph in float32 and int8; return their files by name."""
    paths = {name: folder / f"{name}.onnx" for name in EXPORTERS if name.endswith("-streaming") == is_live}
    for name, path in paths.items():
        export_onnx(model, processor.feature_extractor, path, exporter=name)
    for name, path in list(paths.items()):
        paths[f"{name} int8"] = folder / f"{name}.int8.onnx"
        quantize_int8(path, paths[f"{name} int8"])
    sherpa.write_tokens(folder / "tokens.txt", processor.tokenizer)
    return paths


def sherpa_transcriber(path: Path, threads: int) -> Transcriber:
    """Return a function from a waveform (samples,) at 16 kHz to the transcript of sherpa-onnx's offline recogniser."""
    import sherpa_onnx

    tokens = str(path.parent / "tokens.txt")
    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=str(path), tokens=tokens, num_threads=threads)

    def run(waveform: np.ndarray) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, waveform)
        recognizer.decode_stream(stream)
        return stream.result.text.strip()

    return run


def sherpa_live_transcriber(
    path: Path, threads: int, *, config: ConformerConfig, extractor: ConformerFeatureExtractor
) -> Transcriber:
    """Return a function from a waveform (samples,) at 16 kHz to the transcript of sherpa-onnx's online recogniser."""
    import sherpa_onnx

    chunks = {"chunk_size": config.chunk_size, "num_left_chunks": config.num_left_chunks}
    tokens = str(path.parent / "tokens.txt")
    recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
        model=str(path), tokens=tokens, num_threads=threads, **chunks
    )

    def run(waveform: np.ndarray) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, with_silence(waveform, config, extractor))
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        return recognizer.get_result(stream).strip()

    return run


def with_silence(waveform: np.ndarray, config: ConformerConfig, extractor: ConformerFeatureExtractor) -> np.ndarray:
    """Return a waveform (samples,) followed by the silence that sherpa-onnx's online recogniser needs."""
    silence = np.zeros(round(16000 * sherpa_streaming.silence_seconds(config, extractor)), np.float32)
    return np.concatenate([waveform, silence])


def transcribers(
    model: ConformerForCTC, processor: ConformerProcessor, paths: dict[str, Path], threads: int
) -> dict[str, Transcriber]:
    """Return a function from a waveform (samples,) to a transcript for each runtime and graph."""
    to_text, extractor = greedy_transcriber(processor.tokenizer), processor.feature_extractor
    sides = {"model": model, "processor": processor}
    whole, streamed = source_runner(**sides), stream_runner(model, extractor)
    is_live = "onnx-streaming" in paths

    def source(waveform: np.ndarray) -> np.ndarray:
        return streamed([waveform])[0] if is_live else whole(waveform)

    def decoded(run: Callable[[np.ndarray], np.ndarray]) -> Transcriber:
        return lambda waveform: to_text(run(waveform))

    def in_bf16(waveform: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return source(waveform)

    runs = {"PyTorch float32": decoded(source), "PyTorch bf16": decoded(in_bf16)}
    if is_live:
        runs[SILENCE] = decoded(lambda waveform: source(with_silence(waveform, model.config, extractor)))
    for name, path in paths.items():
        if name.startswith("sherpa") and is_live:
            runs[name] = sherpa_live_transcriber(path, threads, config=model.config, extractor=extractor)
        elif name.startswith("sherpa"):
            runs[name] = sherpa_transcriber(path, threads)
        else:
            _, run, _ = runners(open_session(path, provider="cpu", threads=threads), path, **sides)
            runs[name] = decoded(lambda waveform, run=run: run([waveform])[0])
    return runs


def measure(runs: dict[str, Transcriber], waveforms: Sequence[np.ndarray], rounds: int) -> dict[str, float]:
    """Return the real-time factor of each function: the median of interleaved rounds, NaN without rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            for waveform in waveforms:
                run(waveform)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    audio = sum(len(waveform) for waveform in waveforms) / 16000
    return {name: statistics.median(values or [math.nan]) / audio for name, values in times.items()}


def print_result(name: str, result: dict, source: dict) -> None:
    """Print a line about a runtime; `source` is the result of PyTorch."""
    faster = [source[key] / result[key] for key in ("rtf_1", "rtf_2")]
    size = "" if result["size_mb"] is None else f"{result['size_mb']:7.1f} MB"
    cer = f"CER {result['cer']:.2%}, " if "cer" in result else ""
    same = ", ".join(f"{share:.1%} {part}" for part, share in result["same_text"].items())
    print(
        f"  {name:20} {size:>11}  {cer}same text {same}; real-time factor "
        f"{result['rtf_1']:.4f} on one thread ({faster[0]:.2f} times PyTorch), "
        f"{result['rtf_2']:.4f} on two ({faster[1]:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path")
    parser.add_argument("--dataset_name")
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--timed", type=int, default=40, help="number of recordings that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk_size", type=int)
    parser.add_argument("--num_left_chunks", type=int)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    if args.model_name_or_path:
        model, processor = load_checkpoint(args.model_name_or_path, device="cpu")
        rows = Source(args.dataset_name).load(args.eval_split_name)
        waveforms, references = [read_row(row, sampling_rate=16000) for row in rows], rows["text"][:]
    else:
        model, processor = random_model()
        waveforms = [np.random.default_rng(0).normal(0, 0.1, 160000).astype(np.float32)]
        references = None
    if is_live := args.chunk_size is not None:
        model = with_chunks(model, ChunkArguments(args.chunk_size, args.num_left_chunks))
    normalize = processor.tokenizer.normalize
    parts = {"whole": waveforms}
    parts |= {f"{seconds} s": [waveform[: round(16000 * seconds)] for waveform in waveforms] for seconds in CUTS}
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = export_all(model, processor, Path(folder), is_live=is_live)
        sizes = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
        sizes["PyTorch float32"] = 4 * model.num_parameters() / 1e6
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs = transcribers(model, processor, paths, threads)
            if threads == 1:
                texts = {
                    name: {part: [normalize(run(waveform)) for waveform in group] for part, group in parts.items()}
                    for name, run in runs.items()
                }
            for name, rate in measure(runs, waveforms[: args.timed], args.rounds).items():
                results.setdefault(name, {})[f"rtf_{threads}"] = rate
    print(f"{len(waveforms)} recordings, {args.rounds} interleaved rounds of {min(args.timed, len(waveforms))}")
    for name, result in results.items():
        result["size_mb"] = sizes.get(name)
        expected = texts[SILENCE if is_live and name.startswith("sherpa") else "PyTorch float32"]
        result["same_text"] = {
            part: float(np.mean([a == b for a, b in zip(found, expected[part], strict=True)]))
            for part, found in texts[name].items()
        }
        if references is not None:
            result["cer"] = error_rates([normalize(text) for text in references], texts[name]["whole"])["cer"]
        print_result(name, result, results["PyTorch float32"])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
