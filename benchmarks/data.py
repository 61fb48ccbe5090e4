"""Measure how fast one worker decodes, augments and computes features, in seconds of audio per second.

python benchmarks/data.py [--noise FOLDER] [--rounds 5]

Workers must be faster than training steps consume audio. Everything runs in one thread. The time from
the name of a manifest to the first batch is measured, too.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import datasets
import numpy as np
import soundfile
import torch

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerProcessor, ConformerTokenizer
from hf_asr.data.audio import read_audio
from hf_asr.data.augment import build_augmentation
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.decoded import decoded_once
from hf_asr.data.inspection import inspect
from hf_asr.data.sources import Source, read_row
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.families import required_samples

TRANSFORMS = [
    {"name": "SpeedPerturbation", "factors": [0.9, 1.1]},
    {"name": "Gain"},
    {"name": "Shift"},
    {"name": "PitchShift"},
    {"name": "AddGaussianSNR"},
    {"name": "AddBackgroundNoise"},
    {"name": "AddBabble"},
    {"name": "RoomSimulator", "use_ray_tracing": False},
    {"name": "BandPassFilter"},
    {"name": "SevenBandParametricEQ"},
    {"name": "ClippingDistortion"},
    {"name": "Codec", "codecs": ["opus"]},
    {"name": "Codec", "codecs": ["mp3"]},
    {"name": "Codec", "codecs": ["mulaw"]},
    {"name": "Denoise"},
]


def encoded(waveform: np.ndarray, suffix: str) -> bytes:
    """Return a recording in the format of a suffix; m4a at 48 kHz, as phones record it."""
    file = io.BytesIO()
    if suffix != "m4a":
        subtype = "OPUS" if suffix == "opus" else None
        container = {"opus": "OGG", "8k mp3": "MP3", "48k stereo wav": "WAV"}.get(suffix, suffix.upper())
        rate = 8000 if suffix.startswith("8k") else 48000 if suffix.startswith("48k") else 16000
        data = waveform[::2] if rate == 8000 else np.repeat(waveform, 3) if rate == 48000 else waveform
        data = np.stack([data, data], 1) if "stereo" in suffix else data
        soundfile.write(file, data, rate, format=container, subtype=subtype)
        return file.getvalue()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        pcm = (np.clip(np.repeat(waveform, 3), -1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--noise", type=Path, help="Folder for AddBackgroundNoise; the default is white noise.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of measured rounds; the result is the median.")
    parser.add_argument("--rows", type=int, default=100_000, help="Rows of the manifest for the first batch.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module="audiomentations")  # it warns that a silent noise file is skipped
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    corpus = make_corpus(folder / "corpus", SyntheticCorpusArguments(train_sentences=64, validation_sentences=2))
    rows = Source(str(corpus)).load("train")
    waveforms = [read_row(row, sampling_rate=16000) for row in rows]
    seconds = sum(map(len, waveforms)) / 16000
    noise = args.noise
    if noise is None:
        noise = folder / "noise"
        noise.mkdir()
        white = np.random.default_rng(0).normal(0, 0.1, 80000).astype(np.float32)
        soundfile.write(noise / "white.wav", white, 16000)

    jobs: dict[str, Callable[[], object]] = {}
    for suffix in ("wav", "flac", "mp3", "ogg", "opus", "48k stereo wav", "8k mp3", "m4a"):
        files = [encoded(waveform, suffix) for waveform in waveforms]
        jobs[f"decode {suffix}"] = lambda files=files: [read_audio(file) for file in files]
    cached = decoded_once(rows, 16000, seconds=seconds)
    jobs["read what cache_audio has decoded"] = lambda: [read_row(row, sampling_rate=16000) for row in cached]
    for transform in TRANSFORMS:
        more = {"sounds_path": str(noise)} if transform["name"] == "AddBackgroundNoise" else {}
        augment = build_augmentation([{"p": 1.0} | transform | more], seed=0, rows=rows)
        label = " ".join([transform["name"], *transform.get("codecs", [])])
        jobs[f"augment {label}"] = lambda augment=augment: [
            augment(waveform, 16000, 0, str(i)) for i, waveform in enumerate(waveforms)
        ]
    extractor = ConformerFeatureExtractor()
    groups = [waveforms[i : i + 8] for i in range(0, len(waveforms), 8)]
    jobs["features, in batches of 8"] = lambda: [extractor(group, return_tensors="pt") for group in groups]
    jobs["features, one at a time"] = lambda: [extractor(waveform, return_tensors="pt") for waveform in waveforms]
    try:
        from torchaudio.compliance.kaldi import fbank

        tensors = [torch.from_numpy(waveform)[None] * 32768 for waveform in waveforms]
        jobs["features, torchaudio's kaldi.fbank"] = lambda: [fbank(tensor, num_mel_bins=80) for tensor in tensors]
    except ImportError:
        pass

    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(args.rounds + 1):  # interleaved; the first round warms up
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    print(
        f"one thread, {seconds:.0f} s of audio in {len(rows)} utterances, medians of {args.rounds} interleaved rounds"
    )
    results = {}
    for name, values in times.items():
        results[name] = seconds / statistics.median(values[1:])
        print(f"  {name:<38} {results[name]:8.0f} seconds of audio a second")

    wait, inspected = first_batch(folder, corpus, args.rows)
    print(f"first batch of a {args.rows}-row manifest: {wait:.1f} s (read and checked: {inspected:.1f} s)")
    print(json.dumps(results | {"first_batch_seconds": wait}))


def first_batch(folder: Path, corpus: Path, count: int) -> tuple[float, float]:
    """Return the seconds from the name of a manifest to a batch, without decoding all audio, and to the inspection."""
    lines = (corpus / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    with open(folder / "manifest.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            row = json.loads(lines[number % len(lines)])
            row |= {"audio": str(corpus / "train" / row.pop("file_name")), "id": str(number)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    started = time.perf_counter()
    rows = Source(str(folder / "manifest.jsonl")).load("train")
    processor = ConformerProcessor(
        ConformerFeatureExtractor(), ConformerTokenizer.from_texts(rows["text"][:], text_normalization="zh-en")
    )
    config = ConformerConfig(vocab_size=len(processor.tokenizer))
    inspection = inspect(
        rows,
        split="train",
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=30,
        decode=False,
    )
    inspected = time.perf_counter() - started
    dataset = SpeechDataset(rows.select(inspection.kept), processor=processor, labels=inspection.labels)
    keys = next(iter(DurationBatchSampler(inspection.durations, max_batch_seconds=60)))
    SpeechCollator(processor)([dataset[key] for key in keys])
    return time.perf_counter() - started, inspected


if __name__ == "__main__":
    main()
