"""Prepare a training run: everything before its first step."""

import itertools
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn
from transformers import PreTrainedConfig, set_seed

from ..arguments import checked
from ..data.augment import Augmentation, build_augmentation, longest_durations
from ..data.concatenation import ConcatenatedDataset
from ..data.dataset import SpeechCollator, SpeechDataset, feature_statistics
from ..data.decoded import decoded_once
from ..data.folders import Rows
from ..data.inspection import Inspection, append_findings, inspect, write_findings
from ..data.iterable import StreamedBatches
from ..data.joined_texts import example_of_joints
from ..data.phonemes import encode
from ..data.report import report_data
from ..data.splicing import SplicedDataset
from ..data.spoken import speak_sentences
from ..data.synthetic import SyntheticCorpusArguments, make_corpus
from ..families import computes_on_device, pad_to_labels, required_samples
from ..files import DATA_REPORT, DATA_REPORT_PAGE
from ..model import ConformerProcessor
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from .building import build, describe
from .checkpoints import find_checkpoint, keep_optimizer_options
from .lora import add_lora
from .prior import Prior, best_prior, frames_of, start_at_prior
from .replay import score_before
from .run_folder import finish_overwriting, prepare_folder
from .splits import Splits, first_transcripts, load_splits
from .warm_start import WarmStart, prepare_warm_start

logger = logging.getLogger("hf_asr")


@dataclass
class Prepared:
    """A training run before its first step.

    Attributes:
        splits: Rows to train on and rows to score.
        model: On the device that trains, with low-rank adapters if `lora` is set.
        train_dataset: The rows that can be used, augmented; of a stream, batches of them.
        collator: Combines examples of `train_dataset` into a batch.
        durations: Maximum duration of each training example after augmentation, in seconds; of a stream, those of its
            first buffer.
        training: Result of inspecting the training rows; of a stream, those of its first buffer.
        evaluation: Result of inspecting the rows to score.
        prior: The best distribution for all frames of the training rows.
        folder: Where files are written until training begins: the output folder, or a folder inside it that replaces
            an old run.
        resume_from: Checkpoint to resume from.
        scores_before: With `replay_dataset_name`, the CER on new and old data before training.
        warm_start: Synthetic speech to train on.
    """

    model_args: ModelArguments
    data_args: DataArguments
    splits: Splits
    processor: ConformerProcessor
    model: nn.Module
    train_dataset: SpeechDataset | ConcatenatedDataset | SplicedDataset | StreamedBatches
    collator: SpeechCollator
    durations: list[float]
    training: Inspection
    evaluation: Inspection
    prior: Prior
    folder: Path
    resume_from: Path | None = None
    scores_before: dict[str, float] = field(default_factory=dict)
    warm_start: WarmStart | None = None


def prepare(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> Prepared:
    """Check the arguments, load and inspect the data, and build processor and model.

    What was found in the data is written into `Prepared.folder`. The seed of all random numbers is set.

    Raises:
        ValueError: An argument, source or recording cannot be used; the message says what to change.
    """
    is_main = args.process_index == 0
    resume_from = check_run(model_args, data_args, args)
    set_seed(args.seed)
    if not is_main:
        logger.setLevel(logging.WARNING)
    augment = build_augmentation(data_args.augmentations, seed=args.seed)  # first: it reports a mistake at once
    splits = load_data(data_args, args)
    texts = _texts_of_vocabulary(splits, data_args)
    processor, model, has_new_head = build(model_args, texts, resume_from=resume_from)
    evaluation = inspect_evaluation(splits, processor, config=model.config, data_args=data_args)
    with args.main_process_first(desc="preparing the folder"):
        options = {"overwrites": args.overwrite_output_dir, "is_main": is_main}
        folder = prepare_folder(Path(args.output_dir), resume_from=resume_from, **options)
    # On a GPU that trains, our extractor computes there and not in the workers.
    collator = SpeechCollator(processor, args.use_cpu or not computes_on_device(processor.feature_extractor))
    options = {"config": model.config, "data_args": data_args, "args": args}
    train_dataset, plain_dataset, training = build_training_set(splits.train, collator, augment=augment, **options)
    warm_start = prepare_warm_start(splits.spoken, collator, **options) if splits.spoken else None
    if is_main:
        _report(training, evaluation, warm_start, folder, processor=processor, is_stream=data_args.streaming)
    _check_inspections(training, evaluation, train_dataset, data_args=data_args, args=args)
    if model_args.model_name_or_path is None and resume_from is None:
        mean, istd = feature_statistics(plain_dataset, processor=processor, seed=args.seed)
        model.encoder.feature_mean.copy_(mean)
        model.encoder.feature_istd.copy_(istd)
    frames = frames_of(training.durations, processor.feature_extractor, model.config)
    prior = best_prior(frames, training.labels)
    if has_new_head:
        start_at_prior(model, prior, phonemes=plain_dataset.phonemes and best_prior(frames, plain_dataset.phonemes))
    model = model.to(args.device)
    scores = score_before(model, processor, splits, folder=folder, resume_from=resume_from) if is_main else {}
    if model_args.lora is not None:
        model = add_lora(model, model_args.lora)
    describe(model, args)
    return Prepared(
        model_args=model_args,
        data_args=data_args,
        splits=splits,
        processor=processor,
        model=model,
        train_dataset=train_dataset,
        collator=collator,
        durations=_longest(train_dataset, training, augment),
        training=training,
        evaluation=evaluation,
        prior=prior,
        folder=folder,
        resume_from=resume_from,
        scores_before=scores,
        warm_start=warm_start,
    )


def check_run(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> Path | None:
    """Check the arguments and the output folder; return the checkpoint to resume from, None for a new run.

    Raises:
        ValueError: Arguments contradict each other, or the folder contains something that would be lost.
    """
    output_dir = Path(args.output_dir)
    for source in data_args.sources():
        if Path(source.name).expanduser().resolve() == output_dir.resolve():
            raise ValueError(f"output_dir {output_dir} is the folder of the dataset: choose another one")
    with args.main_process_first(desc="checking the folder"):
        if args.process_index == 0:
            finish_overwriting(output_dir)
        resume_from = find_checkpoint(output_dir, args, base=model_args.model_name_or_path)
    check_arguments(model_args, data_args, args)
    if resume_from is not None:
        keep_optimizer_options(resume_from, args)
    return resume_from


def check_arguments(model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments) -> None:
    """Raise ValueError for arguments that contradict each other."""
    if data_args.streaming and args.max_steps <= 0:
        raise ValueError("streaming needs max_steps, because a stream has no end")
    if data_args.streaming and data_args.cache_audio:
        raise ValueError(
            "cache_audio decodes all recordings before training, not a stream: leave it out (--cache_audio false)"
        )
    if data_args.splicing is not None and (data_args.streaming or args.dataloader_persistent_workers):
        raise ValueError(
            "splicing works neither with streaming nor with dataloader_persistent_workers: leave it out "
            "(--splicing null)"
        )
    _check_warm_start(data_args, args)
    if args.find_batch_seconds and args.use_cpu:
        raise ValueError(
            "find_batch_seconds tries batches until the memory of a GPU is full: leave it out on a CPU, where the "
            "system would end the process instead"
        )
    # The plugin reads what `accelerate launch --dynamo_backend` or its configuration file says.
    is_compiled = args.torch_compile or TorchDynamoPlugin().backend != DynamoBackend.NO
    if is_compiled and args.use_cpu:
        raise ValueError(
            "torch_compile is for GPUs: leave it out on a CPU (also dynamo_backend of accelerate's launcher), where "
            "compiling takes minutes, fails as soon as the lengths of batches differ, and gives no faster steps"
        )
    if args.find_batch_seconds and data_args.streaming:
        raise ValueError("find_batch_seconds needs the longest utterance, which is unknown with streaming")
    fine_tuning = {
        "lora": model_args.lora is not None,
        "freeze_encoder_steps": model_args.freeze_encoder_steps,
        "replay_dataset_name": data_args.replay_dataset_name,
    }
    given = [name for name, value in fine_tuning.items() if value]
    if model_args.model_name_or_path is None and given:
        raise ValueError(f"{', '.join(given)}: only for fine-tuning, give the checkpoint with model_name_or_path")
    if args.average_checkpoints and not args.load_best_model_at_end:
        raise ValueError("average_checkpoints is decided by the evaluations: set load_best_model_at_end to true")
    if model_args.lora is not None and args.average_checkpoints:
        raise ValueError("average_checkpoints needs whole checkpoints, but lora saves adapters: leave one of them out")


def _check_warm_start(data_args: DataArguments, args: ConformerTrainingArguments) -> None:
    """Raise ValueError for a `warm_start` that contradicts other arguments, or whose augmentations are wrong."""
    warm_start = data_args.warm_start_arguments()
    if warm_start is None:
        return
    if data_args.streaming:
        raise ValueError("warm_start needs all transcripts before the training: leave streaming out")
    if 0 < args.max_steps <= warm_start.steps:
        raise ValueError(
            f"warm_start: its steps ({warm_start.steps}) must be fewer than max_steps ({args.max_steps}), or no "
            "recording is trained on"
        )
    build_augmentation(warm_start.augmentations, seed=args.seed)  # at once, not after the speaking


def load_data(data_args: DataArguments, args: ConformerTrainingArguments) -> Splits:
    """Return the rows to train on and to score; what espeak-ng has to speak for them is spoken if it does not exist."""
    with args.main_process_first(desc="loading the data"):
        if data_args.synthetic_corpus is not None:
            options = checked(SyntheticCorpusArguments, data_args.synthetic_corpus)
            make_corpus(data_args.dataset_name, SyntheticCorpusArguments(**options))
        splits = load_splits(data_args, seed=args.seed)
        if (warm_start := data_args.warm_start_arguments()) is not None:
            texts = {"transcripts": splits.train["text"][:], "validation": splits.evaluation["text"][:]}
            splits.spoken = speak_sentences(warm_start, **texts)
        return splits


def inspect_evaluation(
    splits: Splits, processor: ConformerProcessor, *, config: PreTrainedConfig, data_args: DataArguments
) -> Inspection:
    """Inspect the rows to score, of any duration."""
    is_held_out = "held_out_share" in (splits.selection or {})
    return inspect(
        splits.evaluation,
        split=f"{splits.split}, held out" if is_held_out else splits.split,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=float("inf"),
        decode=data_args.inspect_audio,
        is_shared=True,
    )


def build_training_set(
    rows: Rows,
    collator: SpeechCollator,
    *,
    config: PreTrainedConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    augment: Augmentation | None,
) -> tuple[SpeechDataset | ConcatenatedDataset | SplicedDataset | StreamedBatches, SpeechDataset, Inspection]:
    """Return the training set, the same rows without augmentation, and the result of inspecting them.

    The training set of a stream is its batches. Only the first buffer of it is inspected here, and the rows without
    augmentation are those of this buffer.
    """
    options = {
        "split": data_args.train_split_name,
        "processor": collator.processor,
        "required_samples": partial(required_samples, config=config),
        "max_duration_seconds": data_args.max_duration_seconds,
    }
    if data_args.streaming:
        first = list(itertools.islice(rows, data_args.streaming_buffer_size))
        inspection = inspect(first, **options)
        usable = [first[i] for i in inspection.kept]
    else:
        inspection = inspect(rows, **options, decode=data_args.inspect_audio, is_shared=True)
        usable = rows.select(inspection.kept)
        if data_args.cache_audio:
            rate = collator.processor.feature_extractor.sampling_rate
            with args.main_process_first(desc="decoding the recordings"):
                usable = decoded_once(usable, rate, seconds=sum(inspection.durations))
    if augment is not None:
        augment.set_voices(usable)
    augmented = {"augment": augment, "pad_to_labels": partial(pad_to_labels, config=config)}
    unchanged = {"processor": collator.processor, "labels": inspection.labels, "phonemes": encode(usable, config)}
    plain_dataset = SpeechDataset(usable, **unchanged)
    if not data_args.streaming:
        utterances = SpeechDataset(usable, **unchanged, **augmented)
        more = {"augment": augment, "data_args": data_args, "seed": args.seed}
        return _with_made_examples(utterances, inspection.durations, **more), plain_dataset, inspection
    batches = StreamedBatches(
        rows,
        **options,
        **augmented,
        encode_phonemes=partial(encode, config=config),
        concatenation=data_args.concatenation_arguments(),
        max_batch_seconds=args.max_batch_seconds,
        buffer_size=data_args.streaming_buffer_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        num_replicas=args.world_size,
        rank=args.process_index,
        report=Path(args.output_dir) / DATA_REPORT,
        max_unusable_share=data_args.max_unusable_share,
        compute_features=collator.compute_features,
    )
    return batches, plain_dataset, inspection


def _with_made_examples(
    utterances: SpeechDataset,
    durations: list[float],
    *,
    augment: Augmentation | None,
    data_args: DataArguments,
    seed: int,
) -> SpeechDataset | ConcatenatedDataset | SplicedDataset:
    """Return a dataset of the utterances and of the examples that are made of several of them, if there are any."""
    concatenation, splicing = data_args.concatenation_arguments(), data_args.splicing_arguments()
    dataset = utterances
    if concatenation is not None:
        longest = longest_durations(durations, augment)
        dataset = ConcatenatedDataset(dataset, concatenation, durations=longest, seed=seed)
    if splicing is not None:
        dataset = SplicedDataset(dataset, splicing, utterances=utterances, durations=durations, seed=seed)
    return dataset


def _longest(
    dataset: SpeechDataset | ConcatenatedDataset | SplicedDataset | StreamedBatches,
    inspection: Inspection,
    augment: Augmentation | None,
) -> list[float]:
    """Return the maximum duration of each example in seconds; of a stream, those of its first buffer alone."""
    if isinstance(dataset, SplicedDataset):
        dataset = dataset.dataset
    if isinstance(dataset, ConcatenatedDataset):
        return dataset.durations
    return longest_durations(inspection.durations, augment)


def _texts_of_vocabulary(splits: Splits, data_args: DataArguments) -> list[str]:
    texts = first_transcripts(splits.train) + (splits.spoken.texts if splits.spoken else [])
    is_joined = data_args.concatenation or data_args.splicing
    return texts + (example_of_joints(texts) if is_joined else [])


def _report(
    training: Inspection,
    evaluation: Inspection,
    warm_start: WarmStart | None,
    folder: Path,
    *,
    processor: ConformerProcessor,
    is_stream: bool,
) -> None:
    """Write data_report.jsonl and data_report.html, and log the table of the latter."""
    # The findings of a stream are appended when its rows are read.
    findings = [] if is_stream else [*training.findings]
    findings += evaluation.findings + (warm_start.findings if warm_start else [])
    # Of a resumed stream, the file exists, and the rows of before are not read again.
    write = append_findings if is_stream else write_findings
    write(folder / DATA_REPORT, findings)
    facts = {"training": [("synthetic speech", warm_start.summary())]} if warm_start else {}
    inspections = {"training": training, "evaluation": evaluation}
    report_data(inspections, processor=processor, path=folder / DATA_REPORT_PAGE, more_facts=facts)


def _check_inspections(
    training: Inspection,
    evaluation: Inspection,
    train_dataset: SpeechDataset | StreamedBatches,
    *,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
) -> None:
    """Raise ValueError if too many rows are unusable, or too few are left."""
    training.check(data_args.max_unusable_share)
    training.check_any("trained on")
    evaluation.check_any("scored")
    if data_args.streaming:
        train_dataset.check_shares(args.dataloader_num_workers)
    elif len(training.kept) < args.world_size:
        raise ValueError(f"{len(training.kept)} utterances for {args.world_size} processes: use fewer processes")
