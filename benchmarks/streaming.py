"""Measure live audio: the time of a chunk, the streams that a core carries, and the memory of ten hours.

    python benchmarks/streaming.py steps [--layers 12] [--width 256] [--chunk_size 4 8 16] [--streams 1 8 25]
    python benchmarks/streaming.py hours --model_name_or_path runs/streaming [--hours 10] [--recording FILE]

`steps` uses random weights, one thread, and the same left context of 5.1 s for each chunk size. It computes each chunk
in PyTorch, also in bfloat16, in onnxruntime and in int8, alone and several streams in one forward, and lets
sherpa-onnx's online recogniser decode the same graph, which computes one stream at a time. The runtimes compute their
steps in turn, so that all of them see the same noise of the machine. A core carries as many streams as their chunks are
computed while a chunk is spoken, if the 99th percentile of a step is below a chunk. The last column is the median time
of a step and stream, divided by that of sherpa-onnx with the same graph.

`hours` gives one stream ten hours of speech, a recording again and again, and reports the memory of the process after
each hour, and whether the last minute has the text that it has on its own.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sherpa_onnx
import torch
from tqdm.auto import tqdm

from hf_asr.commands.export import add_arguments as add_export_arguments
from hf_asr.data.audio import read_audio
from hf_asr.data.espeak import make_recording
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus, make_sentences
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.decoding.streaming import StreamingRecognizer, StreamingResult
from hf_asr.decoding.streams import EncoderStream, step
from hf_asr.export.run import export
from hf_asr.files import STREAMING_GRAPH, TOKENS
from hf_asr.model import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerProcessor,
    ConformerTokenizer,
)

RATE = 16000
LEFT_FRAMES = 128  # 5.1 s
CHARACTERS = 4000  # in the vocabulary, as for Mandarin

Stepper = Callable[[np.ndarray], bool]  # takes the chunks of all streams (streams, samples), and says if it was a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    steps = commands.add_parser("steps")
    steps.add_argument("--layers", type=int, default=12)
    steps.add_argument("--width", type=int, default=256)
    steps.add_argument("--chunk_size", type=int, nargs="+", default=[4, 8, 16], help="encoder frames of 40 ms")
    steps.add_argument("--streams", type=int, nargs="+", default=[1, 8, 25], help="streams in one forward")
    steps.add_argument("--seconds", type=float, default=30.0, help="audio of each stream")
    steps.set_defaults(run=measure_steps)
    hours = commands.add_parser("hours")
    hours.add_argument("--model_name_or_path", required=True)
    hours.add_argument("--hours", type=int, default=10)
    hours.add_argument("--chunk_size", type=int, default=16)
    hours.add_argument("--num_left_chunks", type=int, default=8)
    hours.add_argument("--recording", type=Path, help="a recording in which words are spoken; else espeak-ng speaks")
    hours.set_defaults(run=measure_hours)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


# Steps


def measure_steps(args: argparse.Namespace) -> None:
    """Print a table with a row for each runtime, chunk size and number of streams."""
    print("| chunk | runtime | streams | step p50 | p95 | p99 | streams of a core | times sherpa-onnx |")
    print("|---|---|---|---|---|---|---|---|")
    for chunk_size in args.chunk_size:
        with tempfile.TemporaryDirectory() as folder:
            recognizers = dict(runtimes(args, chunk_size, Path(folder)))
            for streams in args.streams:
                steppers = {name: own_stepper(each, streams) for name, each in recognizers.items()}
                steppers |= sherpa_steppers(Path(folder), chunk_size)
                print_rows(chunk_size, streams, step_times(steppers, streams, chunk_size, seconds=args.seconds))


def print_rows(chunk_size: int, streams: int, times: dict[str, np.ndarray]) -> None:
    """Print the percentiles of steps in milliseconds, and how many streams a core carries."""
    chunk = 40 * chunk_size
    peers = {"onnxruntime": "sherpa-onnx", "onnxruntime, int8": "sherpa-onnx, int8"}
    for name, own in times.items():
        p50, p95, p99 = np.percentile(1000 * own, [50, 95, 99])
        together = 1 if name in peers.values() else streams
        carried = f"{together * chunk / p50:.1f}" if p99 < chunk else "-"
        peer = times.get(peers.get(name, ""))
        ratio = "" if peer is None else f"{np.median(own) / together / np.median(peer):.2f}"
        figures = f"{p50:.1f} ms | {p95:.1f} ms | {p99:.1f} ms | {carried} | {ratio}"
        print(f"| {chunk} ms | {name} | {together} | {figures} |", flush=True)


def step_times(steppers: dict[str, Stepper], streams: int, chunk_size: int, *, seconds: float) -> dict[str, np.ndarray]:
    """Return the seconds of each step, with the features of its chunks, after the left context is full."""
    generator, size = np.random.default_rng(0), 640 * chunk_size
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for number in tqdm(range(round(seconds * RATE / size)), unit="step", leave=False):
        chunks = generator.normal(0, 0.1, (streams, size)).astype(np.float32)
        for name in list(steppers)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            if steppers[name](chunks):
                times[name].append(time.perf_counter() - started)
    return {name: np.array(own[LEFT_FRAMES // chunk_size :]) for name, own in times.items()}


def own_stepper(recognizer: Recognizer, streams: int) -> Stepper:
    """Return a function that gives each stream a chunk, and computes and decodes a step if all of them are ready."""
    model, keep = recognizer.model, recognizer.decoder.keep
    active = [EncoderStream(model, recognizer.processor.feature_extractor) for _ in range(streams)]

    def compute(chunks: np.ndarray) -> bool:
        for stream, chunk in zip(active, chunks, strict=True):
            stream.add(chunk)
        is_ready = all(stream.is_ready() for stream in active)
        if is_ready:
            for encoded in step(model, active):
                keep(*encoded)
        return is_ready

    return compute


def runtimes(args: argparse.Namespace, chunk_size: int, folder: Path) -> Iterator[tuple[str, Recognizer]]:
    """Yield the name of each runtime and its recogniser of the same random weights."""
    torch.manual_seed(0)
    tokenizer = ConformerTokenizer.from_texts(["".join(map(chr, range(0x4E00, 0x4E00 + CHARACTERS)))])
    extractor = ConformerFeatureExtractor()
    config = ConformerConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=args.layers,
        hidden_size=args.width,
        num_attention_heads=args.width // 64,
        intermediate_size=4 * args.width,
        causal_conv=True,
        use_dynamic_chunk=True,
        chunk_size=chunk_size,
        num_left_chunks=LEFT_FRAMES // chunk_size,
    )
    model, processor = ConformerForCTC(config), ConformerProcessor(extractor, tokenizer)
    for part in (model, processor):
        part.save_pretrained(folder / "checkpoint")
    arguments = SyntheticCorpusArguments(train_sentences=0, validation_sentences=4)
    corpus = make_corpus(folder / "corpus", arguments)
    for target in ("onnx", "sherpa-onnx"):
        parser = argparse.ArgumentParser()
        add_export_arguments(parser)
        command = ["--model_name_or_path", folder / "checkpoint", "--output_dir", folder / target, "--target", target]
        command += ["--streaming", "true", "--quantize", "int8", "--allow_differences", "--dataset_name", corpus]
        with contextlib.redirect_stdout(sys.stderr):
            export(parser.parse_args(list(map(str, command))))
    yield "PyTorch", Recognizer(model, processor)
    yield "PyTorch, bfloat16", load(folder / "checkpoint", arguments=DecodingArguments(dtype="bfloat16"))
    for name, file in (("onnxruntime", STREAMING_GRAPH), ("onnxruntime, int8", "model-streaming.int8.onnx")):
        yield name, load(folder / "onnx" / file)


def sherpa_steppers(folder: Path, chunk_size: int) -> dict[str, Stepper]:
    """Return such a function of sherpa-onnx's online recogniser, for each of its graphs of the same weights."""
    steppers = {}
    for name, graph in (("sherpa-onnx", STREAMING_GRAPH), ("sherpa-onnx, int8", "model-streaming.int8.onnx")):
        recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
            model=str(folder / "sherpa-onnx" / graph),
            tokens=str(folder / "sherpa-onnx" / TOKENS),
            chunk_size=chunk_size,
            num_left_chunks=LEFT_FRAMES // chunk_size,
            num_threads=1,
        )
        steppers[name] = functools.partial(_decode, recognizer, recognizer.create_stream())
    return steppers


def _decode(recognizer: sherpa_onnx.OnlineRecognizer, stream: Any, chunks: np.ndarray) -> bool:
    stream.accept_waveform(RATE, chunks[0])
    is_ready = recognizer.is_ready(stream)
    if is_ready:
        recognizer.decode_stream(stream)
    return is_ready


# Hours


def measure_hours(args: argparse.Namespace) -> None:
    """Print the memory after each hour of a stream, and compare the last minute's text."""
    options = {"chunk_size": args.chunk_size, "num_left_chunks": args.num_left_chunks}
    recognizer = load(args.model_name_or_path, arguments=DecodingArguments(**options))
    minute = spoken_minute(args.recording)
    stream, process, first = StreamingRecognizer(recognizer), psutil.Process(), None
    # One minute more, so that the last one begins with a chunk: four minutes are a whole number of chunks.
    for number in tqdm(range(60 * args.hours + 1), unit="minute"):
        results = say(stream, minute)
        memory = process.memory_info().rss / 2**20
        first = first or memory
        if number == 0 or (number + 1) % 60 == 0:
            tqdm.write(f"after {number + 1} minutes: {memory:.0f} MB, {memory / first:.3f} times the first minute's")
    last = finals(results)
    for before in (0, 4):
        fresh = StreamingRecognizer(recognizer)
        for _ in range(before + 1):
            results = say(fresh, minute)
        verb = "equals" if finals(results) == last else "differs from"
        print(f"the last minute's text {verb} that of the minute in a new stream, {before} minutes after its begin")
        if finals(results) != last:
            print(last, finals(results), sep="\n")


def finals(results: Sequence[StreamingResult]) -> str:
    """Return the text of the utterances that ended."""
    return " ".join(result.text for result in results if result.is_final)


def spoken_minute(recording: Path | None) -> np.ndarray:
    """Return a minute of sentences with silence between them, which also ends with silence."""
    if recording is not None:
        return np.pad(np.resize(read_audio(recording), 58 * RATE), (0, 2 * RATE))
    generator, parts = np.random.default_rng(0), []
    for sentence in make_sentences("en", count=16, generator=generator):
        parts += [make_recording(sentence, language="en", generator=generator)[0], np.zeros(RATE, np.float32)]
    return np.pad(np.resize(np.concatenate(parts), 58 * RATE), (0, 2 * RATE))


def say(stream: StreamingRecognizer, minute: np.ndarray) -> list[StreamingResult]:
    """Return the results of a minute that arrives in pieces of 0.1 s."""
    return [result for piece in np.split(minute, 600) for result in stream.accept(piece)]


if __name__ == "__main__":
    main()
