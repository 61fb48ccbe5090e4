"""Measure what leads a model from nothing off CTC's plateau, and what the recipe for a few hours gives.

    python benchmarks/few_hours.py plateau --dataset_name ../shared/data/sentences_zh [--layers 4 8 12 18]
        [--widths 128 256] [--steps 1500]
    pip install plone.app.locales django && python benchmarks/few_hours.py language --language de [--max_steps 12000]

`plateau` trains a model for each number of layers, width and remedy, without augmentation, dropout and SpecAugment, on
batches of 20 s, until it leaves the plateau. The remedies are the initialisation of new encoders (instead of
PyTorch's), a new head with the frequencies of the tokens, and CTC losses on every third layer. Two more remedies show
when to start the recipe's dropout and SpecAugment: from the first step, or when the plateau is left; compare their CER
with --full, which trains all steps.

`language` trains the recipe on a language that it was not made for. The sentences are messages of Plone and Django.
The recordings are stand-ins: espeak-ng speaks in voice variants that `warm_start` does not use.

Finished runs are stored in --output_dir and are not repeated.
"""

import argparse
import gettext
import importlib.metadata
import json
import re
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import torch
from ablation import Task, arguments, initialize_as_pytorch, load_recipe
from runs import ONE_THREAD, file_name, read_finished, resuming, run_missing
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hf_asr.cli import main as hf_asr
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.dataset import SpeechDataset
from hf_asr.data.espeak import UnspeakableError, make_recording, write_recording
from hf_asr.files import METRICS
from hf_asr.model.tokenization_conformer import normalize_text
from hf_asr.scoring.comparison import read_predictions
from hf_asr.training.plateau import measure_batch
from hf_asr.training.prepare import Prepared, prepare
from hf_asr.training.run import fit

RECIPE = "configs/few_hours.yaml"
BATCH_SECONDS = 20

# The plateau


@dataclass
class Remedy:
    """What is tried against the plateau.

    Attributes:
        initialisation: That of new encoders; otherwise PyTorch's.
        frequencies: A head that starts with the frequencies of the tokens; otherwise PyTorch's.
        intermediate: CTC losses on every third layer, with weight 0.5.
        regularized: Dropout and SpecAugment.
        start: When the regularisation starts; None for the first step.
    """

    initialisation: bool = False
    frequencies: bool = False
    intermediate: bool = False
    regularized: bool = False
    start: str | None = None


NEW_MODEL = {"initialisation": True, "frequencies": True}  # as hf_asr creates it
REMEDIES = {
    "none": Remedy(),
    "intermediate CTC": Remedy(intermediate=True),
    "initialisation": Remedy(initialisation=True),
    "frequencies": Remedy(frequencies=True),
    "both": Remedy(**NEW_MODEL),
    "both, intermediate CTC": Remedy(**NEW_MODEL, intermediate=True),
    "both, regularised": Remedy(**NEW_MODEL, regularized=True),
    "both, regularised off the plateau": Remedy(**NEW_MODEL, regularized=True, start="plateau"),
}
NO_REGULARIZATION = {"hidden_dropout": 0.0, "activation_dropout": 0.0, "apply_spec_augment": False}
MASKS = {"apply_spec_augment": True, "num_time_masks": 4, "freq_mask_width": 20}


@dataclass
class PlateauRun:
    """A row of the table."""

    layers: int
    width: int
    remedy: str
    block_type: str
    subsampling_factor: int
    steps: int
    is_full: bool
    seed: int

    def path(self, output_dir: Path) -> Path:
        """Return where the result is stored."""
        return output_dir / "plateau" / f"{file_name(*asdict(self).values())}.json"

    def recipe(self) -> dict:
        """Return the recipe of the run."""
        remedy, recipe = REMEDIES[self.remedy], load_recipe(RECIPE)
        model = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": max(1, self.width // 64),
            "intermediate_size": 4 * self.width,
            "subsampling_channels": recipe["model"]["subsampling_channels"],
            "block_type": self.block_type,
            "subsampling_factor": self.subsampling_factor,
            **(MASKS if remedy.regularized else NO_REGULARIZATION),
        }
        if remedy.intermediate:
            model |= {"intermediate_ctc_layers": list(range(3, self.layers, 3)), "intermediate_ctc_weight": 0.5}
        return {
            "model": model,
            "text_normalization": "auto",
            "max_batch_seconds": BATCH_SECONDS,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "precision": "bf16",
            "regularization_start": remedy.start,
            "regularization_ramp_steps": recipe.get("regularization_ramp_steps", 500),
            "inspect_audio": False,
            "seed": self.seed,
            **ONE_THREAD,
        }


class Watch(TrainerCallback):
    """Measure the time of each step, and end the training at the last one.

    Args:
        steps: The last step.
        is_full: Train on when the plateau has been left.
    """

    def __init__(self, *, steps: int, is_full: bool):
        self.steps, self.is_full, self.started = steps, is_full, 0.0
        self.seconds: list[float] = []  # from the beginning to the end of each step

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)
        has_left = state.stateful_callbacks["Plateau"]["attributes"]["left_at"] is not None
        control.should_training_stop |= state.global_step >= self.steps or (has_left and not self.is_full)


def initialize(prepared: Prepared, remedy: Remedy) -> None:
    """Draw the weights that are not those of the remedy as PyTorch does by itself."""
    model = prepared.model
    if not remedy.initialisation:
        initialize_as_pytorch(model.encoder)
    if not remedy.frequencies:
        initialize_as_pytorch(model.ctc_head)


def run_plateau(run: PlateauRun, dataset_name: str, output_dir: Path) -> dict:
    """Train a model until it leaves the plateau, and return what is in its row of the table."""
    datasets.disable_progress_bars()
    folder = run.path(output_dir).with_suffix("")
    task = Task(folder.name, dataset_name, run.recipe())
    model_args, data_args, args = arguments(task, task.recipe, folder, 2 * run.steps)  # a cosine over twice the steps
    prepared = prepare(model_args, data_args, args)
    initialize(prepared, REMEDIES[run.remedy])
    watch = Watch(steps=run.steps, is_full=run.is_full)
    trainer = fit(prepared, args, callbacks=[watch])
    left_at = trainer.plateau.left_at
    result = {
        **asdict(run),
        "parameters": prepared.model.num_parameters(),
        "trained_steps": trainer.state.global_step,
        "left_at": left_at,
        "seconds": watch.seconds[(left_at or trainer.state.global_step) - 1],
        "constant_loss": trainer.plateau.constant_loss,
        "loss": validation_loss(prepared, trainer.model),
        "cer": trainer.evaluate()["eval_cer"],
    }
    shutil.rmtree(folder)  # dozens of models of up to 100 MB
    return result


@torch.no_grad()
def validation_loss(prepared: Prepared, model: nn.Module) -> float:
    """Return the CTC loss per token on the validation rows."""
    inspection = prepared.evaluation
    rows = prepared.splits.evaluation.select(inspection.kept)
    dataset = SpeechDataset(rows, processor=prepared.processor, labels=inspection.labels)
    sums = torch.zeros(4)
    model.eval()
    for places in DurationBatchSampler(inspection.durations, max_batch_seconds=BATCH_SECONDS):
        batch = prepared.collator([dataset[place] for place in places])
        labels = batch.pop("labels")
        sums += measure_batch(model, model(**batch).logits, batch["attention_mask"], labels)
    return (sums[0] / sums[1]).item()


def measure_plateau(args: argparse.Namespace) -> None:
    """Train what is missing, and print the table."""
    shapes = product(args.layers, args.widths, args.block_types, args.subsampling_factors, args.seeds, args.remedies)
    runs = [
        PlateauRun(layers, width, remedy, block, factor, args.steps, args.full, seed)
        for layers, width, block, factor, seed, remedy in shapes
    ]
    if not args.only_finished:
        jobs = {run.path(args.output_dir): (run, args.dataset_name, args.output_dir) for run in runs}
        run_missing(run_plateau, jobs, workers=args.jobs)
    found = read_finished(run.path(args.output_dir) for run in runs)
    print(plateau_table(found))
    print(json.dumps(found))


def plateau_table(results: Sequence[dict]) -> str:
    """Return the table of finished runs."""
    head = "| layers | width | remedy | parameters | plateau left at step | seconds | steps | loss per token | CER, % |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for result in results:
        block = "" if result["block_type"] == "conformer" else f", {result['block_type']}"
        factor = "" if result["subsampling_factor"] == 4 else f", {result['subsampling_factor']}x subsampling"
        seed = f", seed {result['seed']}" if result["seed"] else ""
        left_at = result["left_at"]
        cells = [
            result["layers"],
            result["width"],
            f"{result['remedy']}{block}{factor}{seed}",
            f"{result['parameters'] / 1e6:.1f} M",
            f"not within {result['trained_steps']}" if left_at is None else left_at,
            "" if left_at is None else f"{result['seconds']:.0f}",
            result["trained_steps"],
            f"{result['loss']:.2f} (constant {result['constant_loss']:.2f})",
            f"{100 * result['cer']:.1f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


# Another language

LETTERS = {"de": "a-zäöüßA-ZÄÖÜ", "hi": "\u0900-\u0963\u0970-\u097f"}  # without digits and the danda
MIN_WORDS, MAX_WORDS = 3, 12
# Clear enough to be understood, and none of espeak.CLEAR_VARIANTS, in which warm_start speaks.
STAND_IN_VARIANTS = ("mike2", "Lee", "david", "zac", "pedro", "antonio", "announcer", "anika", "Andrea", "caleb", "ian")
STAND_IN_VARIANTS += ("klatt4", "klatt5", "robosoft6", "robosoft8", "Mr serious", "kaukovalta", "AnxiousAndy")


def messages(package: str, language: str) -> Iterable[str]:
    """Yield the translated messages of an installed package.

    Raises:
        SystemExit: The package is not installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"The sentences are in another package: pip install {package}") from None
    for file in files:
        if file.suffix == ".mo" and file.parts[-3:-1] == (language, "LC_MESSAGES"):
            with file.locate().open("rb") as opened:
                catalogue = gettext.GNUTranslations(opened)._catalog
            # The message "" is the header of the file.
            yield from (translated for message, translated in catalogue.items() if translated != message and message)


def sentences_of(texts: Iterable[str], language: str) -> list[str]:
    """Return different sentences of 3 to 12 words, without placeholders, markup, digits and foreign letters."""
    word = f"[{LETTERS[language]}]+(?:-[{LETTERS[language]}]+)*"
    sentence = re.compile(f"{word}(?:[,;:]? {word}){{{MIN_WORDS - 1},{MAX_WORDS - 1}}}[.!?।]?")
    found: dict[str, str] = {}
    for text in texts:
        for part in re.split(r"(?<=[.!?।])\s+|\n+", text):
            if sentence.fullmatch(part.strip()):
                found.setdefault(normalize_text(part, rule="basic"), part.strip())
    return list(found.values())


def split_sentences(sentences: Sequence[str], *, validation: int) -> dict[str, list[str]]:
    """Return sentences to train on and others to score, chosen at random with a fixed seed."""
    order = [sentences[place] for place in np.random.default_rng(0).permutation(len(sentences))]
    return {"train": order[validation:], "validation": order[:validation]}


def speak_recordings(folder: Path, splits: dict[str, list[str]], *, language: str, voices: int) -> None:
    """Write an audio folder, unless it exists: training sentences in several voices each, the others in one."""
    if folder.is_dir():
        return
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    generator = np.random.default_rng(0)
    for split, sentences in splits.items():
        (partial / split).mkdir(parents=True)
        spoken = sentences * (voices if split == "train" else 1)
        with (partial / split / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
            for number, text in enumerate(tqdm(spoken, desc=f"Speaking {split}", unit="utterance")):
                voice = {"language": language, "variants": STAND_IN_VARIANTS, "generator": generator}
                # In lower case, because words in capitals would be spelled letter by letter.
                try:
                    samples, speaker, _ = make_recording(text.lower(), **voice)
                except UnspeakableError:  # a sign such as &, which espeak-ng reads in English
                    continue
                path = partial / split / f"{number:06d}.flac"
                metadata.write(write_recording(path, samples, {"text": text, "speaker": speaker}))
    partial.rename(folder)


def special_characters(texts: Iterable[str]) -> Counter:
    """Return how often the texts contain each mark, and each letter that is not ASCII."""
    characters = unicodedata.normalize("NFC", "".join(texts))
    return Counter(
        character
        for character in characters
        if not character.isascii() and unicodedata.category(character)[0] in ("L", "M")
    )


def measure_language(args: argparse.Namespace) -> None:
    """Speak the corpus and train the recipe, unless they exist; print the scores."""
    output_dir = args.output_dir / args.language
    data = file_name(args.voices, args.validation_sentences, *args.packages)
    folder = output_dir / f"run-{data}-{args.max_steps}-{args.warm_start_steps}"
    if not (folder / METRICS).is_file() and args.only_finished:
        print(f"{folder}: not finished")
        return
    if not (folder / METRICS).is_file():
        sentences = sentences_of(
            (text for name in args.packages for text in messages(name, args.language)), args.language
        )
        splits = split_sentences(sentences, validation=args.validation_sentences)
        print(
            f"{args.language}: {len(splits['train'])} sentences for training, {len(splits['validation'])} others scored"
        )
        corpus = output_dir / f"corpus-{data}"
        speak_recordings(corpus, splits, language=args.language, voices=args.voices)
        train_recipe(corpus, folder, args)
    metrics, records = json.loads((folder / METRICS).read_text(encoding="utf-8")), read_predictions(folder)
    low, high = metrics["cer_interval"]
    print(f"{args.language}: CER {metrics['cer']:.1%} ({low:.1%}-{high:.1%}), WER {metrics['wer']:.1%}", end=", ")
    print(f"{metrics['steps']} steps, {metrics['train_seconds']:.0f} s")
    counts = {name: special_characters(record[name] for record in records) for name in ("reference", "prediction")}
    absent = [character for character in counts["reference"] if not counts["prediction"][character]]
    print(f"letters and marks outside ASCII: {counts['reference'].total()} in the references", end=", ")
    print(f"{counts['prediction'].total()} in the predictions; never predicted: {' '.join(absent) or 'none'}")
    print(json.dumps({"cer": [metrics["cer"], low, high], **counts}, ensure_ascii=False))


def train_recipe(corpus: Path, folder: Path, args: argparse.Namespace) -> None:
    """Train the recipe for --max_steps; a run that was interrupted continues."""
    options = {"config": RECIPE, "dataset_name": corpus, "output_dir": folder, "max_steps": args.max_steps}
    every = max(1, args.max_steps // 12)
    options |= {"eval_steps": every, "save_steps": every, "cpu_threads": args.cpu_threads} | resuming(folder)
    if args.warm_start_steps:
        options["warm_start"] = f"{{language: {args.language}, steps: {args.warm_start_steps}}}"
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    hf_asr(["train", *(word for pair in given for word in pair)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--output_dir", type=Path, default=Path("runs/few_hours"))
    both.add_argument("--only_finished", action="store_true", help="report on the finished runs only")
    part = parts.add_parser("plateau", parents=[both])
    part.set_defaults(run=measure_plateau)
    part.add_argument("--dataset_name", help="dataset with a split validation; not with --only_finished")
    part.add_argument("--layers", type=int, nargs="+", default=[4, 8, 12, 18])
    part.add_argument("--widths", type=int, nargs="+", default=[128, 256], help="multiples of 64")
    part.add_argument("--remedies", nargs="+", choices=REMEDIES, default=list(REMEDIES)[:5])
    part.add_argument("--block_types", nargs="+", choices=("conformer", "e_branchformer"), default=["conformer"])
    part.add_argument("--subsampling_factors", type=int, nargs="+", choices=(4, 6, 8), default=[4])
    part.add_argument("--seeds", type=int, nargs="+", default=[0])
    part.add_argument("--steps", type=int, default=1500, help="maximum number of steps of a run")
    part.add_argument("--full", action="store_true", help="train all steps, also after the plateau is left")
    part.add_argument("--jobs", type=int, default=2, help="runs at a time, with one thread each")
    part = parts.add_parser("language", parents=[both])
    part.set_defaults(run=measure_language)
    part.add_argument("--language", choices=LETTERS, default="de")
    part.add_argument("--packages", nargs="+", default=["plone.app.locales", "django"], help="with message catalogues")
    part.add_argument("--voices", type=int, default=4, help="voices of each training sentence")
    part.add_argument("--validation_sentences", type=int, default=200)
    part.add_argument("--max_steps", type=int, default=12000)
    part.add_argument(
        "--warm_start_steps", type=int, default=0, help="first steps, on synthetic speech in other voices"
    )
    part.add_argument("--cpu_threads", type=int, help="default: all cores")
    args = parser.parse_args()
    if args.part == "plateau" and args.dataset_name is None and not args.only_finished:
        parser.error("plateau needs --dataset_name, or --only_finished")
    datasets.disable_progress_bars()
    args.run(args)


if __name__ == "__main__":
    main()
