"""A training run from arguments to a measured checkpoint."""

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from ..arguments import checked, parse_arguments
from ..console import command
from ..data.augment import build_augmentation, longest_durations
from ..data.dataset import SpeechCollator, SpeechDataset, feature_statistics
from ..data.inspection import Inspection, inspect, write_findings
from ..data.iterable import StreamedBatches
from ..data.report import report_data
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..decoding.recognizer import Recognizer, load
from ..families import computes_on_device, pad_to_labels, required_samples
from ..hub.publish import PublishArguments, publish
from ..hub.upload import open_repository
from ..model import ConformerProcessor
from ..provenance import measured_on
from ..scoring.evaluation import evaluate_rows, write_results
from ..scoring.report import write_report
from ..scoring.selection import describe_selection
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from .building import build, describe
from .callbacks import ShowTranscripts, plot_curves
from .checkpoints import find_checkpoint
from .data_used import write_data_arguments
from .devices import keep_random_state
from .optimization import FreezeEncoder, add_lora, find_batch_seconds
from .record import train_seconds, training_record, write_record
from .run_folder import begin_run, finish_overwriting, prepare_folder
from .splits import Splits, first_transcripts, load_splits
from .trainer import ConformerTrainer

logger = logging.getLogger("hf_asr")


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """`scripts/train.py` and `hf-asr train`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    train(*parse_arguments((ModelArguments, DataArguments, ConformerTrainingArguments), argv))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # left to the interpreter's end, gloo now and then aborts


def train(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> dict:
    """Trains, scores the best checkpoint, writes everything into `args.output_dir` and returns the metrics.

    Raises:
        ValueError: An argument, source or recording that does not fit; the message says what to do.
    """
    output_dir, is_main = Path(args.output_dir), args.process_index == 0
    with args.main_process_first(desc="looking at the folder"):
        if is_main:
            finish_overwriting(output_dir)
        resume_from = find_checkpoint(output_dir, args, base=model_args.model_name_or_path)
    check_arguments(model_args, data_args, args)
    set_seed(args.seed)
    if args.push_to_hub and is_main:  # what is refused shows before hours of training
        open_repository(args.hub_model_id, public=args.hub_private_repo is False, token=args.hub_token)
    if not is_main:
        logger.setLevel(logging.WARNING)
    build_augmentation(data_args.augmentations, seed=args.seed)  # a mistake there shows before the data are read

    with args.main_process_first(desc="reading the data"):
        if data_args.synthetic_corpus is not None:
            options = checked(SyntheticCorpusArguments, data_args.synthetic_corpus)
            make_corpus(data_args.dataset_name, SyntheticCorpusArguments(**options))
        splits = load_splits(data_args, seed=args.seed)
    train_rows, eval_rows = splits.train, splits.evaluation

    processor, model = build(model_args, first_transcripts(train_rows), resume_from=resume_from)
    config = model.config
    is_held_out = "held_out_share" in (splits.selection or {})
    eval_inspection = inspect(
        eval_rows,
        split=f"{splits.split}, held out" if is_held_out else splits.split,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=float("inf"),
        decode=data_args.inspect_audio,
        is_shared=True,
    )
    overwrites = args.overwrite_output_dir
    with args.main_process_first(desc="preparing the folder"):
        prepared = prepare_folder(output_dir, resume_from=resume_from, overwrites=overwrites, is_main=is_main)
    compute_features = args.use_cpu or not computes_on_device(processor.feature_extractor)
    read = stream_training_set if data_args.streaming else inspect_training_set
    train_set, statistics_set, inspection = read(
        train_rows, processor, config, data_args, args, compute_features=compute_features
    )
    if is_main:
        # A stream reports what it skips when it comes to it.
        findings = [] if data_args.streaming else inspection.findings
        write_findings(prepared / "data_report.jsonl", findings + eval_inspection.findings)
        report_data(
            {"training": inspection, "evaluation": eval_inspection},
            processor=processor,
            path=prepared / "data_report.html",
        )
    inspection.check(data_args.max_unusable_share)
    inspection.check_any("trained on")
    eval_inspection.check_any("scored")
    if data_args.streaming:
        train_set.check_shares(args.dataloader_num_workers)
    elif len(inspection.kept) < args.world_size:
        raise ValueError(f"{len(inspection.kept)} utterances for {args.world_size} processes: use fewer processes")
    if model_args.model_name_or_path is None and resume_from is None:
        mean, istd = feature_statistics(statistics_set, processor=processor, seed=args.seed)
        model.encoder.feature_mean.copy_(mean)
        model.encoder.feature_istd.copy_(istd)
    before = score_before(model.to(args.device), processor, splits, prepared, resume_from, is_main=is_main)
    if model_args.lora is not None:
        model = add_lora(model, model_args.lora)
    describe(model, args)

    durations = longest_durations(inspection.durations, train_set.augment)
    trainer = ConformerTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        train_durations=durations,
        layer_lr_decay=model_args.layer_lr_decay,
        eval_dataset=eval_rows,
        data_collator=SpeechCollator(processor, compute_features),
        processing_class=processor,
    )
    shown = eval_inspection.kept[:3]
    trainer.add_callback(ShowTranscripts(trainer, shown))
    if model_args.freeze_encoder_steps:
        trainer.add_callback(FreezeEncoder(model_args.freeze_encoder_steps))
    if trainer.is_deepspeed_enabled and (model_args.lora is not None or model_args.freeze_encoder_steps):
        raise ValueError("lora and freeze_encoder_steps do not go with DeepSpeed, which holds the gradients itself")
    if args.find_batch_seconds:
        args.max_batch_seconds = largest_batch(trainer, durations, prepared, resume_from)
    if is_main:  # from here on nothing but training itself can go wrong
        begin_run(output_dir, prepared, resume_from=resume_from, overwrites=overwrites)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if model_args.lora is not None:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_result()
    if not trainer.is_world_process_zero():
        return {}
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    # What was saved, as everybody will load it: trainer.model computes in the precision of training, or is sharded.
    recognizer = load(output_dir, device=args.device)
    metrics, records = evaluate_rows(recognizer, eval_rows)
    metrics |= {
        **measured_on(
            output_dir,
            [source.name for source in data_args.sources()],
            decoding=recognizer.decoder.name,
            config_name=data_args.config_names(),
            device=args.device,
        ),
        "split": splits.split,
        "selection": splits.selection,
        "train_seconds": train_seconds(trainer.state.log_history),
        "steps": trainer.state.global_step,
        "skipped_steps": trainer.skipped_steps,
        "precision": args.precision,
        "parameters": recognizer.model.num_parameters(),
    }
    if before:
        metrics |= score_after(recognizer, splits, before)
    write_results(output_dir, metrics, records)
    write_report(output_dir / "report.html", metrics, records, eval_rows, title=str(output_dir))
    record = training_record(
        model_args,
        data_args,
        args,
        trainer.state,
        scored={name: metrics[name] for name in ("dataset", "dataset_config", "split", "selection")},
        durations=None if data_args.streaming else inspection.durations,
        is_resumed=resume_from is not None,
    )
    write_record(output_dir, record)
    write_data_arguments(output_dir, data_args, seed=args.seed)
    summarize(metrics, [records[place] for place in shown], output_dir)
    if args.push_to_hub:
        push_result(args)
    return metrics


def push_result(args: ConformerTrainingArguments) -> None:
    """Publishes the result with its card, as `scripts/publish.py` does."""
    options = {"public": args.hub_private_repo is False, "token": args.hub_token, "revision": args.hub_revision}
    try:
        publish(PublishArguments(Path(args.output_dir), args.hub_model_id, **options))
    except ValueError as error:
        later = f"python scripts/publish.py --model_name_or_path {args.output_dir} --hub_model_id {args.hub_model_id}"
        raise ValueError(f"the result is in {args.output_dir}, but not on the Hub: {error}; later: {later}") from error


def check_arguments(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> None:
    """Raises ValueError for arguments that do not go together."""
    if data_args.streaming and args.max_steps <= 0:
        raise ValueError("a stream has no end: --streaming needs --max_steps")
    if args.find_batch_seconds and (args.use_cpu or data_args.streaming):
        raise ValueError(
            "find_batch_seconds tries batches until a GPU's memory is full: leave it out on a CPU, where nothing says "
            "so before the system ends the process, and with --streaming, whose longest utterance nobody knows"
        )
    fine_tuned_only = {
        "lora": model_args.lora is not None,
        "freeze_encoder_steps": model_args.freeze_encoder_steps,
        "replay_dataset_name": data_args.replay_dataset_name,
    }
    if model_args.model_name_or_path is None and (given := [name for name, value in fine_tuned_only.items() if value]):
        raise ValueError(f"{', '.join(given)}: only with --model_name_or_path, a checkpoint to go on from")
    if args.average_checkpoints and not args.load_best_model_at_end:
        raise ValueError("average_checkpoints is decided by the evaluations: leave load_best_model_at_end on")
    if model_args.lora is not None and args.average_checkpoints:
        raise ValueError("average_checkpoints needs whole checkpoints, lora saves adapters: leave one of them out")


def largest_batch(
    trainer: ConformerTrainer, durations: Sequence[float], output_dir: Path, resume_from: Path | None
) -> float:
    """`find_batch_seconds` on the least of all processes; a resumed run takes what it found then."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("find_batch_seconds tries steps before the weights are sharded: give --max_batch_seconds")
    path = output_dir / "max_batch_seconds.json"
    if resume_from is not None and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = find_batch_seconds(trial_step(trainer, durations), longest=max(durations))
    found = trainer.accelerator.gather(torch.tensor([found], device=trainer.args.device)).min().item()
    if trainer.is_world_process_zero():
        path.write_text(json.dumps(found), encoding="utf-8")
    logger.info(f"max_batch_seconds: {found:.0f} fit")
    return found


def trial_step(trainer: ConformerTrainer, durations: Sequence[float]) -> Callable[[float], None]:
    """A function that runs forward and backward on the batch of the longest utterances, of so many seconds."""
    order, rate = np.argsort(durations)[::-1], trainer.processing_class.feature_extractor.sampling_rate

    def run(seconds: float) -> None:
        count = max(1, int(seconds // durations[order[0]]))
        examples = []
        for place in np.resize(order, count).tolist():
            example = trainer.train_dataset[(0, place)]
            # As long as augmentation can make it, not as it happens to.
            waveform = np.resize(example["waveform"], round(durations[place] * rate))
            examples.append(example | {"waveform": waveform})
        with keep_random_state(trainer.args.device):
            batch = trainer.data_collator(examples)
            with trainer.accelerator.autocast():  # which Trainer's model gets only as it begins
                trainer.training_step(trainer.model, batch, num_items_in_batch=(batch["labels"] >= 0).sum())
        trainer.model.zero_grad()

    return run


def score_before(
    model: PreTrainedModel,
    processor: ConformerProcessor,
    splits: Splits,
    output_dir: Path,
    resume_from: Path | None,
    *,
    is_main: bool,
) -> dict[str, float]:
    """With `replay_dataset_name`, the CER on new and old data before training; of a resumed run, as it was then."""
    if splits.replayed is None or not is_main:
        return {}
    path = output_dir / "before.json"
    if resume_from is None:
        pairs = {"cer_before": splits.evaluation, "replay_cer_before": splits.replayed}
        figures = {name: evaluate_rows(Recognizer(model, processor), rows)[0]["cer"] for name, rows in pairs.items()}
        path.write_text(json.dumps(figures), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def score_after(recognizer: Recognizer, splits: Splits, before: dict[str, float]) -> dict[str, float]:
    """`before`, and the CER on old data now."""
    figures = before | {"replay_cer": evaluate_rows(recognizer, splits.replayed)[0]["cer"]}
    print(f"old data: CER {before['replay_cer_before']:.2%} before, {figures['replay_cer']:.2%} after")
    print(f"new data: CER {before['cer_before']:.2%} before")
    return figures


def inspect_training_set(
    rows: datasets.Dataset,
    processor: ConformerProcessor,
    config: PreTrainedConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    *,
    compute_features: bool,
) -> tuple[SpeechDataset, SpeechDataset, Inspection]:
    """The rows that can be trained on, augmented; the same as they are, for statistics; and what was found."""
    inspection = inspect(
        rows,
        split=data_args.train_split_name,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=data_args.max_duration_seconds,
        decode=data_args.inspect_audio,
        is_shared=True,
    )
    kept = rows.select(inspection.kept)
    augment = build_augmentation(data_args.augmentations, seed=args.seed, rows=kept)
    pad = partial(pad_to_labels, config=config)
    train_set = SpeechDataset(kept, processor=processor, augment=augment, pad_to_labels=pad)
    return train_set, SpeechDataset(kept, processor=processor), inspection


def stream_training_set(
    rows: datasets.IterableDataset,
    processor: ConformerProcessor,
    config: PreTrainedConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    *,
    compute_features: bool,
) -> tuple[StreamedBatches, SpeechDataset, Inspection]:
    """Batches of the stream; its first rows as they are, for statistics; and what was found among those."""
    first = list(itertools.islice(rows, data_args.streaming_buffer_size))
    inspection = inspect(
        first,
        split=data_args.train_split_name,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=data_args.max_duration_seconds,
    )
    first = [first[i] for i in inspection.kept]
    batches = StreamedBatches(
        rows,
        split=data_args.train_split_name,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        pad_to_labels=partial(pad_to_labels, config=config),
        augment=build_augmentation(data_args.augmentations, seed=args.seed, rows=first),
        max_batch_seconds=args.max_batch_seconds,
        max_duration_seconds=data_args.max_duration_seconds,
        buffer_size=data_args.streaming_buffer_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        num_replicas=args.world_size,
        rank=args.process_index,
        report=Path(args.output_dir) / "data_report.jsonl",
        max_unusable_share=data_args.max_unusable_share,
        compute_features=compute_features,
    )
    return batches, SpeechDataset(first, processor=processor), inspection


def summarize(metrics: dict, shown: Sequence[dict], output_dir: Path) -> None:
    """Prints the score, a few of the records, and where everything is."""
    (low, high), choice = metrics["cer_interval"], describe_selection(metrics)
    print(
        f"\nCER {metrics['cer']:.2%} (95 % interval {low:.2%} to {high:.2%}), WER {metrics['wer']:.2%}, "
        f"real-time factor {metrics['real_time_factor']:.3f}, "
        f"on {metrics['utterances']} utterances of {metrics['split']!r}{f' ({choice})' if choice else ''}"
    )
    for record in shown:
        print(f"  said:  {record['reference']}\n  heard: {record['prediction']}")
    print(
        f"{output_dir}: the model and its processor; metrics.json, training.json, predictions.jsonl, report.html, "
        "curves.png, data_report.html, data_report.jsonl"
    )
    print(f"next: python scripts/transcribe.py --model_name_or_path {output_dir} FILE")
