"""A training run from arguments to a measured checkpoint."""

import itertools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from ..checkpoint import load_checkpoint
from ..data.augment import build_augmentation
from ..data.dataset import SpeechCollator, SpeechDataset, feature_statistics
from ..data.inspection import Inspection, inspect, write_findings
from ..data.report import report_data
from ..data.sources import read_row
from ..data.streaming import StreamedBatches
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..decoding.recognizer import recognize
from ..hub.publish import PublishArguments, open_repository, publish
from ..model import ConformerFeatureExtractor, ConformerProcessor
from ..provenance import measured_on
from ..scoring.evaluation import evaluate_rows, write_results
from ..scoring.report import write_report
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments, parse_arguments
from .building import build, checked, describe
from .callbacks import ShowTranscripts, plot_curves
from .checkpoints import find_checkpoint
from .optimization import FreezeEncoder, add_lora, find_batch_seconds
from .record import train_seconds, training_record, write_record
from .splits import Splits, first_transcripts, load_splits
from .trainer import ConformerTrainer, best_path, scorer

logger = logging.getLogger("hf_asr")


def main(argv: Sequence[str] | None = None) -> None:
    """`scripts/train.py` and `hf-asr train`: errors a person can mend end in one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        train(*parse_arguments((ModelArguments, DataArguments, ConformerTrainingArguments), argv))
    except (ValueError, ImportError) as error:
        if logger.isEnabledFor(logging.DEBUG):
            raise
        sys.exit(f"error: {error}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # left to the interpreter's end, gloo now and then aborts


def train(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> dict:
    """Trains, scores the best checkpoint, writes everything into `args.output_dir` and returns the metrics.

    Raises:
        ValueError: An argument, source or recording that does not fit; the message says what to do.
    """
    output_dir = Path(args.output_dir)
    resume_from = find_checkpoint(output_dir, args)
    check_arguments(model_args, data_args, args)
    set_seed(args.seed)
    is_main = args.process_index == 0
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
    eval_inspection = inspect(
        eval_rows,
        split=data_args.eval_split_name,
        processor=processor,
        config=config,
        max_duration_seconds=float("inf"),
        decode=data_args.inspect_audio,
        is_shared=True,
    )
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
    # On a GPU features are computed there, from the waveforms; other families' extractors compute on the CPU only.
    compute_features = args.use_cpu or not isinstance(processor.feature_extractor, ConformerFeatureExtractor)
    read = stream_training_set if data_args.streaming else inspect_training_set
    train_set, statistics_set, inspection = read(
        train_rows, processor, config, data_args, args, compute_features=compute_features
    )
    if is_main:
        # A stream reports what it skips when it comes to it.
        findings = [] if data_args.streaming else inspection.findings
        write_findings(output_dir / "data_report.jsonl", findings + eval_inspection.findings)
        report_data(
            {"training": inspection, "evaluation": eval_inspection},
            processor=processor,
            path=output_dir / "data_report.html",
        )
    inspection.check(data_args.max_unusable_share)
    if model_args.model_name_or_path is None and resume_from is None:
        mean, istd = feature_statistics(statistics_set, processor=processor, seed=args.seed)
        model.encoder.feature_mean.copy_(mean)
        model.encoder.feature_istd.copy_(istd)
    before = score_before(model.to(args.device), processor, splits, output_dir, resume_from, is_main=is_main)
    if model_args.lora is not None:
        model = add_lora(model, model_args.lora)
    describe(model, args)

    normalize = processor.tokenizer.normalize
    # While training, the readable ones are scored, sorted by length; at the end all of them are.
    order = np.argsort(eval_inspection.durations, kind="stable")
    readable = eval_rows.select([eval_inspection.kept[i] for i in order])
    shown = eval_rows.select(eval_inspection.kept[:3])
    rate = processor.feature_extractor.sampling_rate
    shown_waveforms = [read_row(row, sampling_rate=rate) for row in shown]
    trainer = ConformerTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        train_durations=inspection.durations,
        layer_lr_decay=model_args.layer_lr_decay,
        eval_dataset=SpeechDataset(readable, processor=processor, config=config),
        data_collator=SpeechCollator(processor, compute_features),
        processing_class=processor,
        compute_metrics=scorer(processor.tokenizer, [normalize(text) for text in readable["text"]]),
        preprocess_logits_for_metrics=best_path,
    )
    if not trainer.is_fsdp_enabled:  # of sharded weights all processes would have to run the model
        references = [normalize(text) for text in shown["text"]]
        trainer.add_callback(ShowTranscripts(processor, shown_waveforms, references))
    if model_args.freeze_encoder_steps:
        trainer.add_callback(FreezeEncoder(model_args.freeze_encoder_steps))
    if trainer.is_deepspeed_enabled and (model_args.lora is not None or model_args.freeze_encoder_steps):
        raise ValueError("lora and freeze_encoder_steps do not go with DeepSpeed, which holds the gradients itself")
    if args.find_batch_seconds:
        args.max_batch_seconds = largest_batch(trainer, inspection.durations, output_dir, resume_from)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if model_args.lora is not None:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(_internal_call=True)  # which leaves pushing to the end of this function
    if not trainer.is_world_process_zero():
        return {}
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    # What was saved, as everybody will load it: trainer.model computes in the precision of training, or is sharded.
    model, _ = load_checkpoint(str(output_dir), device=args.device)
    metrics, records = evaluate_rows(model, processor, eval_rows)
    metrics |= {
        **measured_on(output_dir, [source.name for source in data_args.sources()], device=args.device),
        "split": data_args.eval_split_name,
        "train_seconds": train_seconds(trainer.state.log_history),
        "steps": trainer.state.global_step,
        "skipped_steps": trainer.skipped_steps,
        "precision": args.precision,
        "parameters": model.num_parameters(),
    }
    if before:
        metrics |= score_after(model, processor, splits, before)
    write_results(output_dir, metrics, records)
    write_report(output_dir / "report.html", metrics, records, eval_rows, title=str(output_dir))
    durations = None if data_args.streaming else inspection.durations
    is_resumed = resume_from is not None
    record = training_record(model_args, data_args, args, trainer.state, durations=durations, is_resumed=is_resumed)
    write_record(output_dir, record)
    summarize(model, processor, shown, shown_waveforms, metrics, output_dir)
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
    order = np.argsort(durations)[::-1]

    def run(seconds: float) -> None:
        count = max(1, int(seconds // durations[order[0]]))
        examples = [trainer.train_dataset[(0, int(order[i % len(order)]))] for i in range(count)]
        with torch.random.fork_rng(range(torch.cuda.device_count())):
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
        figures = {name: evaluate_rows(model, processor, rows)[0]["cer"] for name, rows in pairs.items()}
        path.write_text(json.dumps(figures), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def score_after(
    model: PreTrainedModel, processor: ConformerProcessor, splits: Splits, before: dict[str, float]
) -> dict[str, float]:
    """`before`, and the CER on old data now."""
    figures = before | {"replay_cer": evaluate_rows(model, processor, splits.replayed)[0]["cer"]}
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
        config=config,
        max_duration_seconds=data_args.max_duration_seconds,
        decode=data_args.inspect_audio,
        is_shared=True,
    )
    kept = rows.select(inspection.kept)
    augment = build_augmentation(data_args.augmentations, seed=args.seed, rows=kept)
    train_set = SpeechDataset(kept, processor=processor, config=config, augment=augment, pad_to_labels=True)
    return train_set, SpeechDataset(kept, processor=processor, config=config), inspection


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
        config=config,
        max_duration_seconds=data_args.max_duration_seconds,
    )
    first = [first[i] for i in inspection.kept]
    batches = StreamedBatches(
        rows,
        split=data_args.train_split_name,
        processor=processor,
        config=config,
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
    return batches, SpeechDataset(first, processor=processor, config=config), inspection


def summarize(model, processor, shown, waveforms, metrics: dict, output_dir: Path) -> None:
    """Prints the score, three transcripts, and where everything is."""
    low, high = metrics["cer_interval"]
    print(
        f"\nCER {metrics['cer']:.2%} (95 % interval {low:.2%} to {high:.2%}), WER {metrics['wer']:.2%}, "
        f"real-time factor {metrics['real_time_factor']:.3f}, "
        f"on {metrics['utterances']} utterances of {metrics['split']!r}"
    )
    for row, transcript in zip(shown, recognize(model, processor, waveforms), strict=True):
        print(f"  said:  {processor.tokenizer.normalize(row['text'])}\n  heard: {transcript.text}")
    print(
        f"{output_dir}: the model and its processor; metrics.json, training.json, predictions.jsonl, report.html, "
        "curves.png, data_report.html, data_report.jsonl"
    )
    print(f"next: python scripts/transcribe.py --model_name_or_path {output_dir} FILE")
