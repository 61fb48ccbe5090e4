"""Compare the recipe with the article's plain loop, and each lever alone: CER at equal time, audio trained per second.

    python benchmarks/ablation.py --digits ../shared/data/digits_en --sentences ../shared/data/sentences_en \
        --noise ../shared/data/noise [--minutes 5] [--digits_minutes 3.5]

All variants have the same data, seed, model and time. First the speed of each variant is measured in interleaved
rounds: leave the machine idle until "speeds" is printed. The time is then converted to a number of steps, so that other
work does not change the results. Speeds and finished runs are stored in --output_dir and are not repeated.

* `plain`: random batches of a fixed count, float32, Adam at a constant rate (the best of three), CTC, no augmentation.
* `PyPI conformer`: the same loop with the blocks of the model that the article shows (`pip install conformer`).
* `recipe`: the recipe of this package, without each of its levers, and with additional ones. On the synthetic corpus
  the CER on the training voices is recorded during training, because label smoothing is said to reduce its variation.

Tasks: digits_en with each speaker left out in turn, and a synthetic corpus with two voices left out; both clean and
with noise at 5 dB that is not in the training. On sentences_en, which takes longer, only the speed is measured, for
configs/tiny.yaml and for configs/medium.yaml (12 layers of 256) with batches of the same size.
"""

import argparse
import itertools
import json
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import matplotlib
import numpy as np
import torch
import yaml
from noise import noisy_copies
from runs import fresh_processes
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.audio import AUDIO_SUFFIXES, read_audio
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.rows import chosen_by
from hf_asr.data.sources import Source, read_row
from hf_asr.data.splicing import Cuts, SplicedDataset
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.files import find_files, write_text
from hf_asr.scoring.metrics import bootstrap_interval, count_errors
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.prepare import Prepared, prepare
from hf_asr.training.run import fit
from hf_asr.training.splicing import find_cuts

CONDITIONS = ("clean", "5 dB")
WATCHED = ("recipe", "with label smoothing 0.1")
OTHER = ("PyPI conformer",)  # trained for as many steps as plain, although it is not faster
RATES = (3e-4, 1e-3, 3e-3)
PLAIN_MODEL = {"apply_spec_augment": False, "intermediate_ctc_layers": []}
TONE = [
    {"name": "SevenBandParametricEQ", "min_gain_db": -12, "max_gain_db": 12, "p": 0.5},
    {"name": "PitchShift", "min_semitones": -3, "max_semitones": 3, "p": 0.3},
]
LEVERS = {  # changes to the recipe; `more_augmentations` are added to those of the recipe
    "recipe": {},
    "without bf16": {"precision": "fp32"},
    "without waveform augmentation": {"augmentations": []},
    "with SpecAugment": {"model": {"apply_spec_augment": True}},
    "without the moving average": {"ema_decay": 0.0},
    "without warm-up and decay": {"lr_scheduler_type": "constant", "warmup_steps": 0.0},
    "with CR-CTC": {"model": {"consistency_weight": 0.2, "num_time_masks": 5, "apply_spec_augment": True}},
    "with label smoothing 0.1": {"label_smoothing_factor": 0.1},
    "with equaliser and pitch shift": {"more_augmentations": TONE},
    "with an attention decoder": {"model": {"decoder_layers": 2, "ctc_weight": 0.3}},
    "with intermediate CTC": {"model": {"intermediate_ctc_layers": [2]}},
    "with E-Branchformer blocks": {"model": {"block_type": "e_branchformer"}},
}
FEW = {
    name: LEVERS[name] for name in ("recipe", "without bf16", "with CR-CTC")
}  # of the tasks on which only the speed is measured


@dataclass
class Task:
    """Training data without the excluded speakers, and what is scored: {condition: (waveforms, references)}."""

    name: str
    dataset_name: str
    recipe: dict
    excluded: list[str] | None = None
    is_watched: bool = False
    scored: dict[str, tuple[list[np.ndarray], list[str]]] = field(default_factory=dict)
    plain_model: dict = field(default_factory=PLAIN_MODEL.copy)  # changes to the recipe's model for the plain loop


def load_recipe(path: str) -> dict:
    """Return a recipe without its places and numbers of steps."""
    recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for name in ("output_dir", "synthetic_corpus", "max_steps", "eval_steps", "save_steps"):
        recipe.pop(name, None)
    return recipe


def read_recipe(path: str, **changes) -> dict:
    """Return a recipe without its places and numbers of steps, and without SpecAugment."""
    recipe = load_recipe(path)
    # With masks, a model stays on CTC's plateau for longer than these few minutes: see "with SpecAugment".
    recipe["model"] |= {"apply_spec_augment": False}
    return recipe | {"ema_decay": 0.995} | changes


def changed(recipe: dict, changes: dict) -> dict:
    """Return the recipe with the changes of a lever."""
    merged = recipe | changes
    merged["augmentations"] = merged["augmentations"] + merged.pop("more_augmentations", [])
    return merged | {"model": recipe["model"] | changes.get("model", {})}


def arguments(task: Task, recipe: dict, output_dir: Path, steps: int, *, evaluations: int = 0, **changes) -> tuple:
    """Return model, data and training arguments of a run without checkpoints, unless the changes ask for them."""
    values = (
        recipe
        | {
            "dataset_name": task.dataset_name,
            "exclude_speakers": task.excluded,
            "output_dir": str(output_dir),
            "max_steps": steps,
            "eval_strategy": "steps" if evaluations else "no",
            "eval_steps": max(1, steps // max(1, evaluations)),
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "report_to": "none",
            "overwrite_output_dir": True,
        }
        | changes
    )
    classes = (ModelArguments, DataArguments, ConformerTrainingArguments)
    return tuple(
        cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__}) for cls in classes
    )


# The recipe


class Clock(TrainerCallback):
    """Measure the seconds of the steps after step `skip`."""

    def __init__(self, skip: int):
        self.skip, self.started, self.elapsed, self.steps = skip, None, 0.0, 0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            self.started = time.perf_counter()
        elif self.started is not None:
            self.elapsed, self.steps = time.perf_counter() - self.started, state.global_step - self.skip


def time_recipe(task: Task, recipe: dict, output_dir: Path, *, steps: int, seed: int | None = None) -> float:
    """Return the steps per second of the training of this package."""
    clock = Clock(skip=steps // 4)
    model_args, data_args, args = arguments(task, recipe | {"data_seed": seed}, output_dir, steps)
    prepared = prepare(model_args, data_args, args)
    if isinstance(prepared.train_dataset, SplicedDataset):
        prepared.train_dataset.start(even_cuts(prepared.train_dataset))
    fit(prepared, args, callbacks=[clock])
    return clock.steps / clock.elapsed


def even_cuts(dataset: SplicedDataset) -> Cuts:
    """Return cuts as if all tokens of a recording were equally long: these examples take the time of real ones."""
    utterances, found = dataset.utterances, []
    for place, seconds in enumerate(dataset.durations):
        labels = len(utterances.labels[place])
        ends = [round(seconds * 16000), labels, len(utterances.phonemes[place]) if utterances.phonemes else 0]
        found.append(np.linspace(np.zeros(3), ends, labels + 1).astype(np.int32))
    return Cuts(found)


def time_aligning(task: Task, recipe: dict, output_dir: Path) -> float:
    """Return the seconds in which a new model of the recipe aligns the training recordings; 0 without splicing."""
    model_args, data_args, args = arguments(task, recipe, output_dir, 1)
    prepared = prepare(model_args, data_args, args)
    if not isinstance(prepared.train_dataset, SplicedDataset):
        return 0.0
    utterances = prepared.train_dataset.utterances
    started = time.perf_counter()
    find_cuts(Recognizer(prepared.model, prepared.processor), utterances, range(len(utterances)), show_progress=False)
    return time.perf_counter() - started


def time_plain(task: Task, output_dir: Path, *, steps: int, seed: int) -> float:
    """Return the steps per second of the plain loop."""
    prepared, loader = plain_setup(task, output_dir, data_seed=seed)
    return plain_loop(prepared.model, loader, learning_rate=1e-4, steps=steps, skip=steps // 4)


# The article's plain loop


def initialize_as_pytorch(model: nn.Module) -> None:
    """Draw the weights of a new model as PyTorch does by itself."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer.reset_parameters()


def plain_setup(
    task: Task, output_dir: Path, *, data_seed: int | None = None, starts_as_ours: bool = False
) -> tuple[Prepared, DataLoader]:
    """Return what a run without levers trains, and a loader of random batches of a fixed number of utterances.

    The model has the weights that PyTorch draws; with `starts_as_ours` those of hf_asr.
    """
    no_levers = {"precision": "fp32", "augmentations": [], "concatenation": None, "warm_start": None}
    no_levers |= {"splicing": None, "cache_audio": False}
    plain = changed(task.recipe, no_levers | {"model": task.plain_model})
    model_args, data_args, args = arguments(task, plain, output_dir / "plain", 1)
    prepared = prepare(model_args, data_args, args)
    if not starts_as_ours:
        initialize_as_pytorch(prepared.model)
    loader = DataLoader(
        prepared.train_dataset,
        batch_size=max(1, round(args.max_batch_seconds / np.mean(prepared.durations))),
        shuffle=True,
        collate_fn=replace(prepared.collator, compute_features=True),  # also for a GPU
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator().manual_seed(args.seed if data_seed is None else data_seed),
    )
    return prepared, loader


class BlockWithoutMask(nn.Module):
    """A block of PyPI's conformer, which ignores padding, as a replacement for one of our blocks."""

    def __init__(self, config):
        from conformer import ConformerBlock

        super().__init__()
        self.block = ConformerBlock(
            dim=config.hidden_size,
            dim_head=config.head_dim,
            heads=config.num_attention_heads,
            ff_mult=config.intermediate_size // config.hidden_size,
            conv_expansion_factor=2,
            conv_kernel_size=config.conv_kernel_size,
        )

    def forward(self, hidden, *_):
        return self.block(hidden), None


def plain_loop(model: nn.Module, loader: DataLoader, *, learning_rate: float, steps: int, skip: int = 0) -> float:
    """Train on the model's device; return the steps per second after the first `skip` steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())
    started = time.perf_counter()
    for step, batch in enumerate(itertools.islice(batches, steps), start=1):
        loss = model(**{name: value.to(model.device) for name, value in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step == skip:
            started = time.perf_counter()
    return (steps - skip) / (time.perf_counter() - started)


# Speeds


def measure_speeds(task: Task, output_dir: Path, levers: dict[str, dict], *, steps: int, rounds: int) -> dict:
    """Return {variant: [steps per second, seconds of audio per second, ratio to the plain loop]}.

    The values are medians of interleaved rounds. Each run has its own process, as a user's run has.
    """
    prepared, loader = plain_setup(task, output_dir)
    rows = prepared.train_dataset.rows
    epoch = sum(len(read_row(row, sampling_rate=16000)) for row in rows) / 16000
    batches = {"plain": len(loader)}  # per epoch; an epoch has the same seconds of audio for all variants
    recipes = {lever: changed(task.recipe, changes) for lever, changes in levers.items()}
    batches |= {lever: epoch_batches(task, recipe, output_dir / "speed") for lever, recipe in recipes.items()}
    rates: dict[str, list[float]] = {variant: [] for variant in batches}
    bare = replace(task, scored={})
    with fresh_processes(1) as pool:
        for seed in range(rounds):
            options = {"steps": steps, "seed": seed}
            rates["plain"].append(pool.submit(time_plain, bare, output_dir, **options).result())
            for lever, recipe in recipes.items():
                job = pool.submit(time_recipe, bare, recipe, output_dir / "speed", **options)
                rates[lever].append(job.result())
    medians = {variant: statistics.median(values) for variant, values in rates.items()}
    speeds = {}
    for variant, rate in medians.items():
        seconds = rate * epoch / batches[variant]
        # Ratios are computed within a round, because the load of the machine changes between rounds.
        share = batches["plain"] / batches[variant]
        ratios = [own / plain * share for own, plain in zip(rates[variant], rates["plain"], strict=True)]
        speeds[variant] = [rate, seconds, statistics.median(ratios)]
        by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{task.name}, {variant}: {rate:.2f} steps, {seconds:.0f} s of audio a second", end="; ", flush=True)
        print(f"times the plain loop's, by round: {by_round}: {speeds[variant][2]:.2f} in the median", flush=True)
    return speeds


def epoch_batches(task: Task, recipe: dict, output_dir: Path) -> int:
    """Return the number of batches of an epoch of the recordings, each of them once."""
    once = {"concatenation": None, "warm_start": None, "splicing": None}
    model_args, data_args, args = arguments(task, recipe | once, output_dir, 1)
    prepared = prepare(model_args, data_args, args)
    return len(DurationBatchSampler(prepared.durations, max_batch_seconds=args.max_batch_seconds))


# Scores


def score(model, processor, task: Task) -> dict[str, list]:
    """Return the error counts (utterances, 4) of each condition, as lists."""
    counts = {}
    for condition, (waveforms, references) in task.scored.items():
        normalize = processor.tokenizer.normalize
        texts = [normalize(item.text) for item in Recognizer(model, processor).transcribe(waveforms)]
        counts[condition] = count_errors([normalize(text) for text in references], texts, unit="character").tolist()
    return counts


def run_path(task: Task, variant: str, learning_rate: float, output_dir: Path) -> Path:
    """Return the path of the counts of a run."""
    label = f"{task.name}-{variant}{f'-{learning_rate}' if learning_rate else ''}".replace(" ", "_")
    return output_dir / f"{label}.json"


def run_one(task: Task, variant: str, *, steps: int, output_dir: Path, learning_rate: float = 0.0) -> dict[str, list]:
    """Return the counts of a variant on a task; read them if it ran before."""
    path = run_path(task, variant, learning_rate, output_dir)
    label = path.name.removesuffix(".json")
    if path.is_file():
        return json.loads(path.read_text())
    started = time.perf_counter()
    evaluations = []
    if variant in ("plain", "PyPI conformer"):
        prepared, loader = plain_setup(task, output_dir)
        model, processor = prepared.model, prepared.processor
        if variant == "PyPI conformer":
            model.encoder.layers = nn.ModuleList(BlockWithoutMask(model.config) for _ in model.encoder.layers)
        plain_loop(model, loader, learning_rate=learning_rate, steps=steps)
    else:
        folder = output_dir / label
        options = {"evaluations": 15} if task.is_watched and variant in WATCHED else {}
        model_args, data_args, args = arguments(task, changed(task.recipe, LEVERS[variant]), folder, steps, **options)
        trainer = fit(prepare(model_args, data_args, args), args)
        evaluations = [entry["eval_cer"] for entry in trainer.state.log_history if "eval_cer" in entry]
        model, processor = load_checkpoint(str(folder))
    counts = score(model, processor, task) | {"evaluations": evaluations}
    path.write_text(json.dumps(counts))
    rates = ", ".join(f"{name} {cer(counts[name])[0]:.1%}" for name in CONDITIONS)
    print(f"{label}: {rates} after {steps} steps, {time.perf_counter() - started:.0f} s", flush=True)
    return counts


def cer(counts: list) -> tuple[float, float, float]:
    """Return the error rate and its 95 % interval."""
    counts = np.array(counts)
    return float(counts[:, :3].sum() / counts[:, 3].sum()), *bootstrap_interval(counts)


def both(counts: dict[str, list]) -> list:
    """Return the counts of all conditions."""
    return [row for name in CONDITIONS for row in counts[name]]


def pooled(results: list[dict[str, list]]) -> dict[str, list]:
    """Return the counts of several tasks as those of one."""
    return {name: [row for result in results for row in result[name]] for name in CONDITIONS}


# Tasks


def split_noise(folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """Return paths of every second clip, for training, and waveforms of the others, for the test."""
    files = [path for path in find_files(folder) if path.suffix.lower() in AUDIO_SUFFIXES]
    return list(map(str, files[::2])), [read_audio(path) for path in files[1::2]]


def with_noise(recipe: dict, files: list[str]) -> dict:
    """Return the recipe with background noise from these files."""
    noise = {"name": "AddBackgroundNoise", "sounds_path": files, "min_snr_db": 3.0, "max_snr_db": 20.0, "p": 0.5}
    return recipe | {"augmentations": [*recipe["augmentations"], noise]}


def conditions(rows: datasets.Dataset, noises: list[np.ndarray]) -> dict:
    """Return waveforms and references of the rows, clean and with noise."""
    waveforms, references = [read_row(row, sampling_rate=16000) for row in rows], rows["text"][:]
    return {"clean": (waveforms, references), "5 dB": (noisy_copies(waveforms, noises, snr_db=5), references)}


def digits_tasks(folder: str, files: list[str], noises: list[np.ndarray], *, clips: int) -> dict[str, Task]:
    """Return a task for each speaker, who is excluded from training and scored."""
    recipe = with_noise(read_recipe("configs/digits.yaml"), files)
    rows = Source(folder).load("train")
    tasks = {}
    for speaker in sorted(set(rows["speaker"])):
        own = chosen_by(rows, "speaker", {speaker}.__contains__)
        chosen = own.select(np.random.default_rng(0).permutation(len(own))[:clips])
        tasks[speaker] = Task(speaker, folder, recipe, [speaker], False, conditions(chosen, noises))
    return tasks


def spoken_task(output_dir: Path, files: list[str], noises: list[np.ndarray]) -> Task:
    """Return a task on a synthetic corpus like the quickstart's; two of its eleven voices are only in the test."""
    sizes = {"train_sentences": 1600, "validation_sentences": 600}
    corpus = make_corpus(output_dir / "corpus", SyntheticCorpusArguments(**sizes))
    unseen = ["en-us+m7", "en-us+f4", "cmn+m7", "cmn+f4"]
    test = Source(str(corpus)).load("validation")
    test = chosen_by(test, "speaker", unseen.__contains__)
    augmentations = [{"name": "SpeedPerturbation", "factors": [0.9, 1.0, 1.1]}]
    recipe = with_noise(read_recipe("configs/quickstart.yaml", augmentations=augmentations), files)
    return Task("spoken", str(corpus), recipe, unseen, True, conditions(test, noises))


def sentences_task(folder: str, config: str) -> Task:
    """Return a task with SpecAugment and the batch size of configs/tiny.yaml: a CPU has no memory for 10 minutes."""
    recipe = read_recipe(f"configs/{config}.yaml", max_batch_seconds=60, dataloader_num_workers=1)
    recipe["model"] |= {"apply_spec_augment": True}
    return Task(f"sentences, {config}", folder, recipe)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--digits", required=True)
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each run on the synthetic corpus")
    parser.add_argument("--digits_minutes", type=float, default=3.5, help="training time of each run on the digits")
    parser.add_argument("--speed_steps", type=int, default=40)
    parser.add_argument("--speed_rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=200, help="scored clips of each excluded speaker")
    parser.add_argument("--speeds_only", action="store_true", help="only measure the speeds")
    parser.add_argument("--only_finished", action="store_true", help="report on the finished runs only")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    files, noises = split_noise(args.noise)
    digits = digits_tasks(args.digits, files, noises, clips=args.clips)
    spoken = spoken_task(args.output_dir, files, noises)
    jobs = {  # task, levers, steps
        "sentences, tiny": (sentences_task(args.sentences, "tiny"), FEW, args.speed_steps),
        "sentences, 12x256": (sentences_task(args.sentences, "medium"), FEW, args.speed_steps // 4),
        "spoken": (spoken, LEVERS, args.speed_steps),
        "digits": (next(iter(digits.values())), {"recipe": {}}, args.speed_steps),
    }
    path = args.output_dir / "speeds.json"
    speeds = json.loads(path.read_text()) if path.is_file() else {}
    for name, (task, levers, steps) in jobs.items():
        if name not in speeds:
            speeds[name] = measure_speeds(task, args.output_dir, levers, steps=steps, rounds=args.speed_rounds)
            write_text(path, json.dumps(speeds))
    print(f"speeds: {json.dumps(speeds)}", flush=True)
    if args.speeds_only:
        return

    def go(task: Task, variant: str, learning_rate: float = 0.0) -> dict[str, list] | None:
        if args.only_finished and not run_path(task, variant, learning_rate, args.output_dir).is_file():
            return None
        rate = speeds["spoken" if task is spoken else "digits"]["plain" if variant in OTHER else variant][0]
        steps = round(rate * 60 * (args.minutes if task is spoken else args.digits_minutes))
        return run_one(task, variant, steps=steps, output_dir=args.output_dir, learning_rate=learning_rate)

    results: dict[str, dict[str, dict]] = {"spoken": {}, "digits": {}}
    for name, tasks in (("spoken", [spoken]), ("digits", list(digits.values()))):
        tried = {rate: go(tasks[0], "plain", rate) for rate in RATES}
        best = min(tried, key=lambda rate: cer(both(tried[rate]))[0])
        results[name][f"plain, rate {best:g}"] = pooled([go(task, "plain", best) for task in tasks])
        results[name]["recipe"] = pooled([go(task, "recipe") for task in tasks])
        if name == "spoken":
            results[name]["PyPI conformer, the same rate"] = go(spoken, "PyPI conformer", best)
    results["spoken"] |= {variant: go(spoken, variant) for variant in LEVERS}
    results = {
        name: {variant: counts for variant, counts in found.items() if counts} for name, found in results.items()
    }
    report(results, speeds, args.output_dir)


def report(results: dict, speeds: dict, output_dir: Path) -> None:
    """Print the tables and draw the figure."""
    figures = {}
    for task, variants in results.items():
        print(f"\n{task}: CER, % (95 % interval)")
        plain = next(value for name, value in variants.items() if name.startswith("plain"))
        for variant, counts in variants.items():
            cells = ""
            for condition in (*CONDITIONS, "both"):
                rows, plain_rows = (
                    both(value) if condition == "both" else value[condition] for value in (counts, plain)
                )
                rate, low, high = cer(rows)
                change = rate / cer(plain_rows)[0] - 1
                cells += f"   {condition} {100 * rate:5.1f} ({100 * low:.1f}-{100 * high:.1f}) {change:+5.0%}"
                figures[f"{task}/{variant}/{condition}"] = [rate, low, high]
            if swings := counts.get("evaluations"):
                late = np.diff(swings[len(swings) // 3 :])  # after the first third, when the model produces words
                cells += f"   between evaluations {100 * np.abs(late).mean():.1f}, up {(late > 0).sum()}/{len(late)}"
            print(f"  {variant:32}{cells}")
    for task, variants in speeds.items():
        print(f"\n{task}: seconds of audio trained a second (times the plain loop's)")
        for variant, (_, seconds, ratio) in variants.items():
            print(f"  {variant:32} {seconds:7.0f}  ({ratio:.2f})")
    draw(figures, output_dir / "ablation.png")
    print(json.dumps({"cer": figures, "speeds": speeds}))


def draw(figures: dict[str, list[float]], path: Path) -> None:
    """Draw a row for each task and variant with a bar for each condition."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(dict.fromkeys(name.rpartition("/")[0] for name in figures))[::-1]
    figure, axis = plt.subplots(figsize=(9, 0.45 * len(rows) + 1), constrained_layout=True)
    for place, (condition, colour) in enumerate(zip(CONDITIONS, ("#2b6cb0", "#dd6b20"), strict=True)):
        rates = np.array([figures[f"{row}/{condition}"] for row in rows]) * 100
        heights = np.arange(len(rows)) + 0.2 - 0.4 * place
        errors = np.abs(rates[:, 1:] - rates[:, :1]).T
        axis.barh(heights, rates[:, 0], 0.38, xerr=errors, color=colour, capsize=2, label=condition)
    axis.set_yticks(range(len(rows)), [row.replace("/", ": ") for row in rows])
    axis.set(xlabel="CER, % (95 % interval)")
    axis.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
