"""What augmentation and denoising are worth in noise: SI-SDR, and CER of recognisers trained with and without noise.

python benchmarks/noise.py --dataset_name ../shared/data/digits_en --noise ../shared/data/noise

Trains configs/digits.yaml three times (a run that is there already is kept): as it is, with noise and babble added to
its augmentations, and with those and `denoise: true`, which denoises after augmentation and at inference. The noise
clips are split: every second one is for training, the others for the test.
"""

import argparse
import json
from pathlib import Path

import datasets
import numpy as np
import yaml

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.audio import AUDIO_SUFFIXES, read_audio
from hf_asr.data.sources import load_source, read_row
from hf_asr.data.transforms import mix, rms
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.model.feature_extraction_conformer import denoise
from hf_asr.scoring.metrics import bootstrap_interval, count_errors
from hf_asr.training.run import main as train

RATIOS = (0, 5, 10, 20)  # dB


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10(target @ target / ((estimate - target) @ (estimate - target))))


def noisy_copies(waveforms: list[np.ndarray], noises: list[np.ndarray], *, snr_db: float) -> list[np.ndarray]:
    """Each with a part of a noise, the same at every ratio."""
    generator, copies = np.random.default_rng(0), []
    for waveform in waveforms:
        while True:
            noise = noises[generator.integers(len(noises))]
            start = generator.integers(max(1, len(noise) - len(waveform)))
            part = np.resize(noise[start:], len(waveform))
            if rms(part) > 1e-4:  # not the silence before a dog barks
                break
        copies.append(mix(waveform, part, snr_db=snr_db))
    return copies


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--noise", type=Path, required=True, help="folder of noise recordings")
    parser.add_argument("--config", default="configs/digits.yaml")
    parser.add_argument("--max_steps", type=int, help="instead of the recipe's")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/noise"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    files = sorted(path for path in args.noise.rglob("*") if path.suffix in AUDIO_SUFFIXES)
    for_training, for_test = files[::2], [read_audio(path) for path in files[1::2]]
    recipe = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))["augmentations"]
    noise = {"name": "AddBackgroundNoise", "sounds_path": list(map(str, for_training)), "p": 0.6}
    noise |= {"min_snr_db": 0.0, "max_snr_db": 20.0}
    babble = {"name": "AddBabble", "min_snr_db": 5.0, "max_snr_db": 20.0, "p": 0.2}
    noisy = [*recipe, noise, babble]
    # Augmentations, settings of the extractor, and what is done to the copies before they are transcribed.
    recipes = {
        "without noise": (recipe, {}, ("as it is", "denoised")),
        "with noise": (noisy, {}, ("as it is", "denoised")),
        "with noise, denoising": (noisy, {"denoise": True}, ("as it is",)),
    }

    rows = load_source(args.dataset_name, split="validation")
    waveforms = [read_row(row, sampling_rate=16000) for row in rows]
    copies = {"none": waveforms} | {snr: noisy_copies(waveforms, for_test, snr_db=snr) for snr in RATIOS}
    cleaned = {name: [denoise(copy, sampling_rate=16000) for copy in group] for name, group in copies.items()}
    results: dict[str, dict] = {"si_sdr": {}, "cer": {}}
    print(f"{len(rows)} utterances of {args.dataset_name}; SI-SDR in dB, noisy -> denoised")
    for snr in RATIOS:
        pair = [
            np.mean([si_sdr(*both) for both in zip(group[snr], waveforms, strict=True)]) for group in (copies, cleaned)
        ]
        results["si_sdr"][snr] = [float(value) for value in pair]
        print(f"  {snr:>4} dB  {pair[0]:6.2f} -> {pair[1]:6.2f}")

    for name, (augmentations, extractor, labels) in recipes.items():
        folder = args.output_dir / name.replace(",", "").replace(" ", "-")
        if not (folder / "metrics.json").is_file():
            steps = ["--max_steps", str(args.max_steps)] if args.max_steps else []
            train(
                ["--config", args.config, "--dataset_name", args.dataset_name, "--output_dir", str(folder)]
                + ["--augmentations", yaml.safe_dump(augmentations)]
                + ["--feature_extractor", yaml.safe_dump(extractor), *steps]
            )
        model, processor = load_checkpoint(str(folder))
        references = [processor.tokenizer.normalize(text) for text in rows["text"]]
        for label in labels:
            for snr, group in (copies if label == "as it is" else cleaned).items():
                texts = [
                    processor.tokenizer.normalize(item.text) for item in Recognizer(model, processor).transcribe(group)
                ]
                counts = count_errors(references, texts, unit="character")
                rate = counts[:, :3].sum() / counts[:, 3].sum()
                results["cer"][f"{name}, {label}, {snr}"] = [float(rate), *bootstrap_interval(counts)]
    print("\nCER, % (95 % interval)" + "".join(f"{f'{snr} dB' if snr != 'none' else 'no noise':>21}" for snr in copies))
    for name, (_, _, labels) in recipes.items():
        for label in labels:
            cells = (results["cer"][f"{name}, {label}, {snr}"] for snr in copies)
            row = "".join(f"{100 * rate:8.1f} ({100 * low:4.1f}-{100 * high:4.1f})" for rate, low, high in cells)
            print(f"trained {name}, {label:<9}{row}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
