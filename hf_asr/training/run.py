"""Train: from prepared data and model to a saved and measured result."""

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from ..families import merge_sounds
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from .batch_search import largest_batch
from .callbacks import FreezeEncoder, ShowTranscripts
from .plateau import Plateau, remedies
from .prepare import Prepared, prepare
from .regularization import ScheduleRegularization
from .results import record_results
from .run_folder import begin_run
from .trainer import ConformerTrainer
from .warm_start import check_epochs

logger = logging.getLogger("hf_asr")


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    *,
    command: str | None = None,
) -> dict:
    """Train, score the result, write everything into `args.output_dir` and return the metrics.

    Processes other than the main one return an empty dict.

    Args:
        command: Command line that started the run, for training.json.

    Raises:
        ValueError: An argument, source or recording cannot be used; the message says what to change.
    """
    prepared = prepare(model_args, data_args, args)
    trainer = fit(prepared, args)
    return record_results(trainer, prepared, command=command)


def fit(
    prepared: Prepared, args: ConformerTrainingArguments, callbacks: Sequence[TrainerCallback] = ()
) -> ConformerTrainer:
    """Train and save the result into `args.output_dir`; return the trainer, whose state holds losses and scores.

    Args:
        callbacks: More callbacks of the trainer.

    Raises:
        ValueError: The arguments do not fit the way that accelerate distributes the model, or training diverges.
    """
    output_dir, resume_from, lora = Path(args.output_dir), prepared.resume_from, prepared.model_args.lora
    found = remedies(prepared.model.config, prepared.model_args, prepared.data_args, args)
    trainer = ConformerTrainer(
        model=prepared.model,
        args=args,
        train_dataset=prepared.train_dataset,
        train_durations=prepared.durations,
        layer_lr_decay=prepared.model_args.layer_lr_decay,
        warm_start=prepared.warm_start,
        eval_dataset=prepared.splits.evaluation,
        data_collator=prepared.collator,
        processing_class=prepared.processor,
        plateau=Plateau(prepared.prior.loss, remedies=found),
        callbacks=list(callbacks),
    )
    trainer.add_callback(ShowTranscripts(trainer, prepared.evaluation.kept[:3]))
    if freeze_steps := prepared.model_args.freeze_encoder_steps:
        trainer.add_callback(FreezeEncoder(freeze_steps))
    start, is_tuned = args.regularization_start, prepared.model_args.model_name_or_path is not None
    if start is not None and not trainer.is_conformer:
        logger.info("regularization_start has no effect: only our Conformer's dropout and masks can be scheduled")
    elif start == "plateau" and is_tuned:
        logger.info("regularization_start plateau has no effect: the checkpoint has left the plateau")
    elif start is not None:
        schedule = {"start": start, "ramp_steps": args.regularization_ramp_steps}
        trainer.add_callback(ScheduleRegularization(trainer.base_model, trainer.plateau, **schedule))
    if trainer.is_deepspeed_enabled and (lora is not None or freeze_steps):
        raise ValueError("lora and freeze_encoder_steps do not work with DeepSpeed, which manages the gradients itself")
    if args.find_batch_seconds:
        durations = prepared.durations + (prepared.warm_start.durations if prepared.warm_start else [])
        args.max_batch_seconds = largest_batch(trainer, durations, prepared.folder, resume_from=resume_from)
    if prepared.warm_start is not None:
        check_epochs(trainer.batch_sampler(), args)
    if args.process_index == 0:  # an old run is deleted only now, when nothing but training itself can fail
        begin_run(output_dir, prepared.folder, resume_from=resume_from, overwrites=args.overwrite_output_dir)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if lora is not None:
        trainer.model = trainer.model.merge_and_unload()
    if not trainer.is_sharded:  # a sharded result is merged where it is loaded
        merge_sounds(trainer.base_model)
    trainer.save_result()
    return trainer
