"""Compare fine-tuning of a model pre-trained on hours of synthetic English with training from scratch, at equal time.

    python benchmarks/finetune.py --dataset_name ../shared/data/sentences_en [--pretrain_steps 2000] [--steps 600]

espeak-ng synthesises sentences from the docstrings of the installed packages (English prose that needs no network) in
eleven voices. Both models are that of configs/tiny.yaml, and both are trained on the same batches for the same number
of steps, which takes the same time. Finished runs are stored in --output_dir.
"""

import argparse
import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import soundfile
from tqdm.auto import tqdm

from hf_asr.cli import main as hf_asr
from hf_asr.data.espeak import SAMPLE_RATE, make_recording
from hf_asr.scoring.comparison import compare_predictions, read_predictions

SENTENCE = re.compile(r"(?:^|(?<=[.!?]\s))([A-Z][a-z' ]+(?:, [a-z' ]+)*)[.!?](?=\s|$)")
# For a short training: smaller masks and augmentations than those of configs/tiny.yaml.
MODEL = """{hidden_size: 128, num_hidden_layers: 8, num_attention_heads: 2, intermediate_size: 512,
subsampling_channels: 64, num_time_masks: 2, freq_mask_width: 15}"""
AUGMENTATIONS = """
- {name: SpeedPerturbation, factors: [0.85, 0.9, 1.0, 1.1, 1.15]}
- {name: SevenBandParametricEQ, min_gain_db: -12, max_gain_db: 12, p: 0.3}
- {name: AddGaussianSNR, min_snr_db: 10, max_snr_db: 40, p: 0.3}
"""


def docstrings(folder: Path) -> Iterator[str]:
    """Yield the docstring of each module, class and function below a folder."""
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def english_sentences(limit: int) -> list[str]:
    """Return different sentences of 4 to 16 words without digits, shuffled with a fixed seed."""
    found: dict[str, None] = {}
    for text in docstrings(Path(sysconfig.get_paths()["purelib"])):
        for sentence in SENTENCE.findall(" ".join(text.split())):
            words = sentence.split()
            if 4 <= len(words) <= 16 and all(len(word) > 1 or word in "aAI" for word in words):
                found.setdefault(" ".join(words).lower())
        if len(found) > limit:
            break
    sentences = list(found)
    return [sentences[i] for i in np.random.default_rng(0).permutation(len(sentences))]


def speak_corpus(folder: Path, hours: float) -> Path:
    """Create an audio folder of `hours` hours for training and 5 minutes of other sentences for validation."""
    if (folder / "done").is_file():
        return folder
    generator, sentences = np.random.default_rng(0), iter(english_sentences(limit=round(hours * 1200)))
    goals, seconds = {"validation": 300.0, "train": hours * 3600}, 0.0
    for split, goal in goals.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        seconds, number = 0.0, 0
        with (
            open(folder / split / "metadata.jsonl", "w", encoding="utf-8") as metadata,
            tqdm(total=round(goal), unit="s", desc=f"Speaking {split}") as progress,
        ):
            for text in sentences:
                samples, speaker, _ = make_recording(text, language="en", generator=generator)
                soundfile.write(folder / split / f"{number:06d}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
                row = {"file_name": f"{number:06d}.flac", "text": text, "speaker": speaker}
                row["duration"] = round(len(samples) / SAMPLE_RATE, 4)
                metadata.write(json.dumps(row) + "\n")
                seconds, number = seconds + row["duration"], number + 1
                progress.update(row["duration"])
                if seconds >= goal:
                    break
    print(f"{seconds / 3600:.2f} hours synthesised, {number} different sentences")
    (folder / "done").touch()
    return folder


def run(dataset_name: str, output_dir: Path, steps: int, *more: str) -> dict:
    """Return the metrics of a run; read them if it exists."""
    if not (output_dir / "metrics.json").is_file():
        every = str(max(1, steps // 4))
        hf_asr(
            ["train", "--config", "configs/tiny.yaml", "--dataset_name", dataset_name, "--output_dir", str(output_dir)]
            + ["--text_normalization", "en", "--model", MODEL, "--augmentations", AUGMENTATIONS, "--ema_decay", "0.99"]
            + ["--max_steps", str(steps), "--eval_steps", every, "--save_steps", every]
            + ["--overwrite_output_dir", "true", "--inspect_audio", "false", *more]
        )
    return json.loads((output_dir / "metrics.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--pretrain_steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/finetune"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    corpus = speak_corpus(args.output_dir / "corpus", args.hours)
    results = {
        "pre-trained, on synthetic validation": run(str(corpus), args.output_dir / "pretrained", args.pretrain_steps)
    }
    folders = {name: args.output_dir / name for name in ("scratch", "tuned")}
    results["from scratch"] = run(args.dataset_name, folders["scratch"], args.steps)
    more = ("--model_name_or_path", str(args.output_dir / "pretrained"), "--learning_rate", "1e-3")
    results["fine-tuned"] = run(args.dataset_name, folders["tuned"], args.steps, *more)
    for name, metrics in results.items():
        low, high = metrics["cer_interval"]
        rates = f"CER {metrics['cer']:.1%} ({low:.1%}-{high:.1%}), WER {metrics['wer']:.1%}"
        print(f"{name:36} {rates}, {metrics['steps']} steps, {metrics['train_seconds']:.0f} s")
    print(compare_predictions(*(read_predictions(folder) for folder in folders.values())).verdict)
    change = results["fine-tuned"]["cer"] / results["from scratch"]["cer"] - 1
    print(json.dumps({name: metrics["cer"] for name, metrics in results.items()} | {"relative_change": change}))


if __name__ == "__main__":
    main()
