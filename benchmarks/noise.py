"""Measure augmentation and denoising in noise: SI-SDR, and CER of recognisers trained with and without noise.

python benchmarks/noise.py --dataset_name ../shared/data/digits_en --noise ../shared/data/noise

Train configs/digits.yaml three times (a finished run is reused): unchanged, with noise and babble added to its
augmentations, and with these and `denoise: true`, which denoises after augmentation and at inference. Every second
noise clip is for training, the others are for the test.
"""

import argparse
import json
from pathlib import Path

import datasets
import numpy as np
import yaml

from hf_asr.cli import main as hf_asr
from hf_asr.data.audio import AUDIO_SUFFIXES, read_audio
from hf_asr.data.sources import Source, read_row
from hf_asr.data.transforms import mix, rms
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.files import METRICS, find_files
from hf_asr.model.feature_extraction_conformer import denoise
from hf_asr.scoring.metrics import bootstrap_interval, count_errors

RATIOS = (0, 5, 10, 20)  # dB


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10(target @ target / ((estimate - target) @ (estimate - target))))


def noisy_copies(waveforms: list[np.ndarray], noises: list[np.ndarray], *, snr_db: float) -> list[np.ndarray]:
    """Return each waveform with a section of a noise, the same section at every ratio."""
    generator, copies = np.random.default_rng(0), []
    for waveform in waveforms:
        while True:
            noise = noises[generator.integers(len(noises))]
            start = generator.integers(max(1, len(noise) - len(waveform)))
            part = np.resize(noise[start:], len(waveform))
            if rms(part) > 1e-4:  # skip silent sections, as before a bark
                break
        copies.append(mix(waveform, part, snr_db=snr_db))
    return copies


def measure_si_sdr(copies: dict, cleaned: dict, waveforms: list[np.ndarray]) -> dict[int, list[float]]:
    """Print and return the mean SI-SDR in dB of noisy and of denoised recordings, by signal-to-noise ratio."""
    results = {}
    for snr in RATIOS:
        pair = [
            np.mean([si_sdr(*both) for both in zip(group[snr], waveforms, strict=True)]) for group in (copies, cleaned)
        ]
        results[snr] = [float(value) for value in pair]
        print(f"  {snr:>4} dB  {pair[0]:6.2f} -> {pair[1]:6.2f}")
    return results


def train(folder: Path, args: argparse.Namespace, *, augmentations: list[dict], extractor: dict) -> None:
    """Train the recipe with these augmentations, unless `folder` contains a finished run."""
    if not (folder / METRICS).is_file():
        steps = ["--max_steps", str(args.max_steps)] if args.max_steps else []
        hf_asr(
            ["train", "--config", args.config, "--dataset_name", args.dataset_name, "--output_dir", str(folder)]
            + ["--augmentations", yaml.safe_dump(augmentations)]
            + ["--feature_extractor", yaml.safe_dump(extractor), *steps]
        )


def error_rate(recognizer: Recognizer, waveforms: list[np.ndarray], texts: list[str]) -> list[float]:
    """Return the CER of normalised transcripts with its 95 % interval."""
    normalize = recognizer.processor.tokenizer.normalize
    references = [normalize(text) for text in texts]
    predictions = [normalize(item.text) for item in recognizer.transcribe(waveforms)]
    counts = count_errors(references, predictions, unit="character")
    return [float(counts[:, :3].sum() / counts[:, 3].sum()), *bootstrap_interval(counts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", required=True, help="Dataset to train on and to add noise to.")
    parser.add_argument("--noise", type=Path, required=True, help="Folder of noise recordings.")
    parser.add_argument("--config", default="configs/digits.yaml", help="Recipe to train.")
    parser.add_argument("--max_steps", type=int, help="Number of training steps; the default is the one of the recipe.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/noise"), help="Folder for the runs.")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    files = [path for path in find_files(args.noise) if path.suffix.lower() in AUDIO_SUFFIXES]
    for_training, for_test = files[::2], [read_audio(path) for path in files[1::2]]
    recipe = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))["augmentations"]
    noise = {"name": "AddBackgroundNoise", "sounds_path": list(map(str, for_training)), "p": 0.6}
    noise |= {"min_snr_db": 0.0, "max_snr_db": 20.0}
    babble = {"name": "AddBabble", "min_snr_db": 5.0, "max_snr_db": 20.0, "p": 0.2}
    noisy = [*recipe, noise, babble]
    # Augmentations, arguments of the extractor, and the kinds of test recordings.
    recipes = {
        "without noise": (recipe, {}, ("as it is", "denoised")),
        "with noise": (noisy, {}, ("as it is", "denoised")),
        "with noise, denoising": (noisy, {"denoise": True}, ("as it is",)),
    }

    rows = Source(args.dataset_name).load("validation")
    waveforms = [read_row(row, sampling_rate=16000) for row in rows]
    copies = {"none": waveforms} | {snr: noisy_copies(waveforms, for_test, snr_db=snr) for snr in RATIOS}
    cleaned = {name: [denoise(copy, sampling_rate=16000) for copy in group] for name, group in copies.items()}
    print(f"{len(rows)} utterances of {args.dataset_name}; SI-SDR in dB, noisy -> denoised")
    results = {"si_sdr": measure_si_sdr(copies, cleaned, waveforms), "cer": {}}
    for name, (augmentations, extractor, labels) in recipes.items():
        folder = args.output_dir / name.replace(",", "").replace(" ", "-")
        train(folder, args, augmentations=augmentations, extractor=extractor)
        recognizer = load(str(folder))
        for label in labels:
            for snr, group in (copies if label == "as it is" else cleaned).items():
                results["cer"][f"{name}, {label}, {snr}"] = error_rate(recognizer, group, rows["text"])
    print("\nCER, % (95 % interval)" + "".join(f"{f'{snr} dB' if snr != 'none' else 'no noise':>21}" for snr in copies))
    for name, (_, _, labels) in recipes.items():
        for label in labels:
            cells = (results["cer"][f"{name}, {label}, {snr}"] for snr in copies)
            row = "".join(f"{100 * rate:8.1f} ({100 * low:4.1f}-{100 * high:4.1f})" for rate, low, high in cells)
            print(f"trained {name}, {label:<9}{row}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
