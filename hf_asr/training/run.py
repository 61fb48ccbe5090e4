"""A training run from arguments to a measured checkpoint."""

import logging
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoModelForCTC, AutoProcessor, set_seed

from ..data.audio import read_audio
from ..data.augment import build_augmentation
from ..data.dataset import (
    Inspection,
    SpeechCollator,
    SpeechDataset,
    feature_statistics,
    inspect,
    row_audio,
    write_report,
)
from ..data.sources import load_source, split_names
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..decoding.recognizer import recognize
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..scoring.evaluation import evaluate_rows, write_results
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments, parse_arguments
from .callbacks import ShowTranscripts, plot_curves
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
    if data_args.dataset_name is None:
        raise ValueError("dataset_name is required: a folder, a manifest, a saved dataset or a Hub id")
    output_dir = Path(args.output_dir)
    resume_from = find_checkpoint(output_dir, args)
    set_seed(args.seed)
    is_main = args.process_index == 0
    if not is_main:
        logger.setLevel(logging.WARNING)
    augment = build_augmentation(data_args.augmentations, seed=args.seed)

    with args.main_process_first(desc="reading the data"):
        if data_args.synthetic_corpus is not None:
            make_corpus(data_args.dataset_name, _from_mapping(SyntheticCorpusArguments, data_args.synthetic_corpus))
        train_rows, eval_rows = load_splits(data_args, seed=args.seed)

    processor, model = build(model_args, train_rows["text"], resume_from)
    inspection = inspect(
        train_rows,
        split=data_args.train_split_name,
        processor=processor,
        config=model.config,
        max_duration_seconds=data_args.max_duration_seconds,
    )
    eval_inspection = inspect(
        eval_rows,
        split=data_args.eval_split_name,
        processor=processor,
        config=model.config,
        max_duration_seconds=float("inf"),
    )
    if not inspection.kept:
        raise ValueError(f"nothing to train on: {inspection.summary()}; first: {inspection.findings[:1]}")
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_report(output_dir / "data_report.jsonl", inspection.findings + eval_inspection.findings)
    describe(train_rows, eval_rows, inspection, eval_inspection, processor, model, args)

    normalize = processor.tokenizer.normalize
    train_set = SpeechDataset(
        train_rows.select(inspection.kept),
        processor=processor,
        config=model.config,
        augment=augment,
        pad_to_labels=True,
    )
    # While training, the readable ones are scored, sorted by length; at the end all of them are.
    order = np.argsort(eval_inspection.durations, kind="stable")
    readable = eval_rows.select([eval_inspection.kept[i] for i in order])
    eval_set = SpeechDataset(readable, processor=processor, config=model.config)
    shown = eval_rows.select(eval_inspection.kept[:3])
    shown_waveforms = [read_audio(row_audio(row)) for row in shown]
    if model_args.model_name_or_path is None and resume_from is None:
        unaugmented = SpeechDataset(train_set.rows, processor=processor, config=model.config)
        mean, istd = feature_statistics(unaugmented, extractor=processor.feature_extractor, seed=args.seed)
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
    summarize(trainer.model, processor, shown, shown_waveforms, metrics, output_dir)
    return metrics


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


def load_splits(data_args: DataArguments, *, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and evaluation rows; without an evaluation split, a seeded share is held out, by speaker if known."""
    names = split_names(data_args.dataset_name, config_name=data_args.dataset_config_name)

    def load(split: str) -> datasets.Dataset:
        return load_source(
            data_args.dataset_name,
            split=split,
            config_name=data_args.dataset_config_name,
            audio_column=data_args.audio_column_name,
            text_column=data_args.text_column_name,
        )

    train_rows, speaker_column = load(data_args.train_split_name), data_args.speaker_column_name
    has_speakers = speaker_column in train_rows.column_names
    # A split that was named and is missing is a mistake; only the default's absence means "hold out".
    if data_args.eval_split_name in names or data_args.eval_split_name != "validation":
        eval_rows = load(data_args.eval_split_name)
    else:
        by_speaker = has_speakers and len(set(train_rows[speaker_column])) > 1
        groups = train_rows[speaker_column] if by_speaker else list(range(len(train_rows)))
        distinct = sorted(set(groups))
        count = max(1, round(data_args.held_out_share * len(distinct)))
        held_out = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
        chosen = [group in held_out for group in groups]
        eval_rows = train_rows.select(np.flatnonzero(chosen))
        train_rows = train_rows.select(np.flatnonzero(~np.array(chosen)))
        by = f"{count} of {len(distinct)} speakers" if by_speaker else f"{count} utterances"
        logger.info(f"no split 'validation': held out {len(eval_rows)} utterances ({by}), seed {seed}")
    if data_args.exclude_speakers:
        if not has_speakers:
            raise ValueError(
                f"--exclude_speakers needs a column {speaker_column!r}; there are: {', '.join(train_rows.column_names)}"
            )
        excluded = set(data_args.exclude_speakers)
        if unknown := excluded - set(map(str, train_rows[speaker_column])):
            raise ValueError(
                f"--exclude_speakers {' '.join(sorted(unknown))}: no such speaker; "
                f"there are: {', '.join(sorted(set(map(str, train_rows[speaker_column])))[:20])}"
            )
        train_rows = train_rows.filter(lambda name: str(name) not in excluded, input_columns=speaker_column)
        if speaker_column in eval_rows.column_names:
            eval_rows = eval_rows.filter(lambda name: str(name) not in excluded, input_columns=speaker_column)
    return train_rows, eval_rows


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


def describe(
    train_rows: datasets.Dataset,
    eval_rows: datasets.Dataset,
    inspection: Inspection,
    eval_inspection: Inspection,
    processor: ConformerProcessor,
    model: ConformerForCTC,
    args: ConformerTrainingArguments,
) -> None:
    """Logs what is about to be trained on what."""
    normalize = processor.tokenizer.normalize
    heard = {normalize(text) for text in train_rows["text"]}
    unseen = sum(normalize(text) not in heard for text in eval_rows["text"])
    logger.info(f"training:   {inspection.summary()}")
    logger.info(
        f"evaluation: {eval_inspection.summary()}; {unseen} of {len(eval_rows)} sentences do not occur in training"
    )
    rule = processor.tokenizer.init_kwargs.get("text_normalization")
    logger.info(f"vocabulary: {len(processor.tokenizer)} tokens, text normalisation {rule!r}")
    device = "CPU" if args.use_cpu else torch.cuda.get_device_name()
    logger.info(
        f"model:      {model.num_parameters() / 1e6:.1f} M parameters, "
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
    print(f"{output_dir}: the model and its processor; metrics.json, predictions.jsonl, curves.png, data_report.jsonl")
    print(f"next: python scripts/transcribe.py --model_name_or_path {output_dir} FILE")


def _train_seconds(log_history: list[dict]) -> float:
    return next((entry["train_runtime"] for entry in reversed(log_history) if "train_runtime" in entry), 0.0)
