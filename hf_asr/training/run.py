"""A training run from arguments to a measured checkpoint."""

import itertools
import logging
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoModelForCTC, AutoProcessor, set_seed

from ..data.augment import build_augmentation
from ..data.dataset import Inspection, SpeechCollator, SpeechDataset, feature_statistics, inspect, write_findings
from ..data.report import report_data
from ..data.sources import read_row
from ..data.streaming import StreamedBatches
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..decoding.recognizer import recognize
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..scoring.evaluation import evaluate_rows, write_results
from ..scoring.report import write_report
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments, parse_arguments
from .callbacks import ShowTranscripts, plot_curves
from .splits import first_transcripts, load_splits
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


def train(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> dict:
    """Trains, scores the best checkpoint, writes everything into `args.output_dir` and returns the metrics.

    Raises:
        ValueError: An argument, source or recording that does not fit; the message says what to do.
    """
    output_dir = Path(args.output_dir)
    resume_from = find_checkpoint(output_dir, args)
    if data_args.streaming and args.max_steps <= 0:
        raise ValueError("a stream has no end: --streaming needs --max_steps")
    set_seed(args.seed)
    is_main = args.process_index == 0
    if not is_main:
        logger.setLevel(logging.WARNING)
    build_augmentation(data_args.augmentations, seed=args.seed)  # a mistake there shows before the data are read

    with args.main_process_first(desc="reading the data"):
        if data_args.synthetic_corpus is not None:
            make_corpus(data_args.dataset_name, _from_mapping(SyntheticCorpusArguments, data_args.synthetic_corpus))
        train_rows, eval_rows = load_splits(data_args, seed=args.seed)

    is_new = model_args.model_name_or_path is None and resume_from is None
    processor, model = build(model_args, first_transcripts(train_rows) if is_new else [], resume_from)
    eval_inspection = inspect(
        eval_rows,
        split=data_args.eval_split_name,
        processor=processor,
        config=model.config,
        max_duration_seconds=float("inf"),
        decode=data_args.inspect_audio,
    )
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
    read = stream_training_set if data_args.streaming else inspect_training_set
    train_set, statistics_set, inspection = read(train_rows, processor, model.config, data_args, args)
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
    describe(model, args)

    normalize = processor.tokenizer.normalize
    # While training, the readable ones are scored, sorted by length; at the end all of them are.
    order = np.argsort(eval_inspection.durations, kind="stable")
    readable = eval_rows.select([eval_inspection.kept[i] for i in order])
    eval_set = SpeechDataset(readable, processor=processor, config=model.config)
    shown = eval_rows.select(eval_inspection.kept[:3])
    rate = processor.feature_extractor.sampling_rate
    shown_waveforms = [read_row(row, sampling_rate=rate) for row in shown]
    if is_new:
        mean, istd = feature_statistics(statistics_set, extractor=processor.feature_extractor, seed=args.seed)
        model.encoder.feature_mean.copy_(mean)
        model.encoder.feature_istd.copy_(istd)

    trainer = ConformerTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        train_durations=inspection.durations,
        eval_dataset=eval_set,
        data_collator=SpeechCollator(processor),
        processing_class=processor,
        compute_metrics=scorer(processor.tokenizer, [normalize(text) for text in readable["text"]]),
        preprocess_logits_for_metrics=best_path,
        callbacks=[ShowTranscripts(processor, shown_waveforms, [normalize(text) for text in shown["text"]])],
    )
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    trainer.save_model()
    if not trainer.is_world_process_zero():
        return {}
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    metrics, records = evaluate_rows(trainer.model, processor, eval_rows)
    metrics |= {
        "split": data_args.eval_split_name,
        "train_seconds": round(_train_seconds(trainer.state.log_history), 1),
        "steps": trainer.state.global_step,
        "precision": args.precision,
        "parameters": trainer.model.num_parameters(),
    }
    write_results(output_dir, metrics, records)
    write_report(output_dir / "report.html", metrics, records, eval_rows, title=str(output_dir))
    summarize(trainer.model, processor, shown, shown_waveforms, metrics, output_dir)
    return metrics


def inspect_training_set(
    rows: datasets.Dataset,
    processor: ConformerProcessor,
    config: ConformerConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
) -> tuple[SpeechDataset, SpeechDataset, Inspection]:
    """The rows that can be trained on, augmented; the same as they are, for statistics; and what was found."""
    inspection = inspect(
        rows,
        split=data_args.train_split_name,
        processor=processor,
        config=config,
        max_duration_seconds=data_args.max_duration_seconds,
        decode=data_args.inspect_audio,
    )
    kept = rows.select(inspection.kept)
    augment = build_augmentation(data_args.augmentations, seed=args.seed, rows=kept)
    train_set = SpeechDataset(kept, processor=processor, config=config, augment=augment, pad_to_labels=True)
    return train_set, SpeechDataset(kept, processor=processor, config=config), inspection


def stream_training_set(
    rows: datasets.IterableDataset,
    processor: ConformerProcessor,
    config: ConformerConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
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
    )
    return batches, SpeechDataset(first, processor=processor, config=config), inspection


def find_checkpoint(output_dir: Path, args: ConformerTrainingArguments) -> Path | None:
    """The checkpoint to resume from, if `--resume_from_checkpoint` asks for one (`true`: the last complete one).

    Raises:
        ValueError: The folder holds a run and nothing was said about it, or the checkpoint asked for is not there.
    """
    # trainer_state.json is the last file of a checkpoint that Trainer writes
    complete = sorted(
        (path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")),
        key=lambda path: int(path.name.rsplit("-", 1)[1]),
    )
    asked = args.resume_from_checkpoint
    if asked is None or str(asked).lower() == "false":
        holds_a_run = output_dir.is_dir() and (complete or (output_dir / "config.json").exists())
        if holds_a_run and not args.overwrite_output_dir:
            raise ValueError(
                f"{output_dir} already holds a run: --resume_from_checkpoint true goes on with it, "
                "--overwrite_output_dir true starts anew, another --output_dir keeps both"
            )
        return None
    if str(asked).lower() == "true":
        if not complete:
            raise ValueError(f"{output_dir} holds no complete checkpoint to resume from: leave out the argument")
        return complete[-1]
    if not (Path(asked) / "trainer_state.json").is_file():
        raise ValueError(f"{asked} is no complete checkpoint; in {output_dir}: {[path.name for path in complete]}")
    return Path(asked)


def build(
    model_args: ModelArguments, texts: list[str], resume_from: Path | None
) -> tuple[ConformerProcessor, ConformerForCTC]:
    """Processor and model: those of a checkpoint, or new ones with a vocabulary learnt from `texts`."""
    source = resume_from or model_args.model_name_or_path
    if source is not None:
        return AutoProcessor.from_pretrained(source), AutoModelForCTC.from_pretrained(source)
    tokenizer = ConformerTokenizer.from_texts(
        texts,
        kind=model_args.tokenizer,
        text_normalization=model_args.text_normalization,
        vocab_size=model_args.bpe_vocab_size,
    )
    extractor = ConformerFeatureExtractor(**_checked(ConformerFeatureExtractor, model_args.feature_extractor))
    options = _checked(ConformerConfig, model_args.model)
    config = ConformerConfig(
        **options,
        vocab_size=len(tokenizer),
        num_mel_bins=extractor.num_mel_bins,
        hop_length=extractor.hop_length,
    )
    return ConformerProcessor(extractor, tokenizer), ConformerForCTC(config)


def _checked(cls: type, options: dict) -> dict:
    """`options`, all of which `cls` knows."""
    known = set(signature(cls.__init__).parameters) | set(getattr(cls, "__dataclass_fields__", {}))
    if unknown := set(options) - known:
        raise ValueError(
            f"{cls.__name__} has no {', '.join(sorted(unknown))}; it has: {', '.join(sorted(known - {'self'}))}"
        )
    return options


def _from_mapping(cls: type, options: dict):
    return cls(**_checked(cls, options))


def describe(model: ConformerForCTC, args: ConformerTrainingArguments) -> None:
    """Logs what is about to be trained, and where."""
    device = "CPU" if args.use_cpu else torch.cuda.get_device_name()
    logger.info(
        f"model: {model.num_parameters() / 1e6:.1f} M parameters, "
        f"{args.precision} on {device}, {args.world_size} process(es)"
    )


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
        f"{output_dir}: the model and its processor; metrics.json, predictions.jsonl, report.html, curves.png, "
        "data_report.html, data_report.jsonl"
    )
    print(f"next: python scripts/transcribe.py --model_name_or_path {output_dir} FILE")


def _train_seconds(log_history: list[dict]) -> float:
    return next((entry["train_runtime"] for entry in reversed(log_history) if "train_runtime" in entry), 0.0)
