"""transformers' Trainer over batches bounded by seconds, scored by CER, that loses nothing when it is stopped."""

import contextlib
import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import save as serialized
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import HubStrategy, speed_metrics
from transformers.utils.hub import PushInProgress

from ..data.batching import DurationBatchSampler
from ..data.dataset import extract_features
from ..data.iterable import StreamedBatches
from ..decoding.recognizer import Recognizer
from ..families import model_inputs, summed_ctc_loss
from ..files import WEIGHTS
from ..hub.upload import additions, model_files
from ..model import ConformerForCTC
from ..scoring.evaluation import predict_rows
from ..scoring.metrics import error_rates
from .averaging import WeightAverage, mean_of_checkpoints, share_buffers, weights_of
from .checkpoints import chosen_checkpoints, delete_others, scores, with_sound_weights, write_checksums
from .devices import keep_random_state
from .optimization import parameter_groups
from .run_folder import STATE, UNFINISHED, is_inside, list_checkpoints, replace_result, step_of

logger = logging.getLogger("hf_asr")

MAX_SKIPPED_STEPS = 20  # in a row


class _SetEpoch(TrainerCallback, ExportableState):
    """Trainer tells the epoch to accelerate's data loaders only, and ours is a plain one. Checkpoints keep what the
    batches were, so that a run that goes on with others says so."""

    def __init__(self, sampler: DurationBatchSampler, updates_per_epoch: int):
        self.sampler, self.updates_per_epoch = sampler, updates_per_epoch

    def on_train_begin(self, args, state, control, **kwargs):
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if stored != self.state():
            logger.warning(
                f"resumed at step {state.global_step}: other batches than before (another number of processes, "
                "--max_batch_seconds, or recordings), so some utterances of this epoch come twice and some not at all"
            )

    def state(self) -> dict:
        return {"args": {}, "attributes": {"batches": self.sampler.fingerprint}}

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(state.global_step // self.updates_per_epoch)


class ConformerTrainer(Trainer):
    """
    Args:
        train_durations: Seconds of each training utterance, the most that augmentation makes of it.
        layer_lr_decay: See `parameter_groups`.
    """

    def __init__(
        self,
        *args,
        train_durations: Sequence[float] | None = None,
        layer_lr_decay: float = 1.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.train_durations, self.layer_lr_decay = train_durations, layer_lr_decay
        self.base_model: PreTrainedModel = getattr(self.model, "get_base_model", lambda: self.model)()
        self.is_conformer = isinstance(self.base_model, ConformerForCTC)
        # The losses know smoothing; Trainer's own compares frames with labels.
        self.label_smoother = None
        self.base_model.config.label_smoothing = self.args.label_smoothing_factor
        # Ours divides by it itself; of the others we compute the loss here.
        self.model_accepts_loss_kwargs = True
        self.skipped_steps = self._skipped_in_a_row = 0
        self._is_writing_checkpoint = False
        self.scored: list[tuple[str, str]] = []  # reference and prediction of each row, of the last evaluation
        self.average: WeightAverage | None = None
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if is_sharded and (self.args.ema_decay or self.args.average_checkpoints):
            raise ValueError(
                "ema_decay and average_checkpoints need whole weights on each device: leave them out with FSDP and "
                "DeepSpeed"
            )
        if self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise ValueError("fsdp_state_dict_type is FULL_STATE_DICT: the result of a run is one file")
        if self.is_fsdp_enabled and self.args.eval_on_start:
            raise ValueError("eval_on_start: with FSDP nothing is scored before the first step, leave it out")
        if self.args.ema_decay:
            self.average = WeightAverage(self.model, decay=self.args.ema_decay)
            self.add_callback(self.average)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Already split over the ranks, so accelerate does not prepare it: it would shard, repeat or drop batches."""
        workers = self.args.dataloader_num_workers
        options = {
            "num_workers": workers,
            "persistent_workers": workers > 0 and self.args.dataloader_persistent_workers,
            "prefetch_factor": 4 if workers else None,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type not in ("cpu", "mps"),
            "worker_init_fn": _one_thread,
        }
        if isinstance(self.train_dataset, StreamedBatches):
            return DataLoader(self.train_dataset, batch_size=None, **options)
        sampler = DurationBatchSampler(
            self.train_durations,
            max_batch_seconds=self.args.max_batch_seconds,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            num_replicas=self.args.world_size,
            rank=self.args.process_index,
        )
        updates_per_epoch = -(-len(sampler) // self.args.gradient_accumulation_steps)
        self.remove_callback(_SetEpoch)
        self.add_callback(_SetEpoch(sampler, updates_per_epoch))
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator, **options)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "waveforms" in inputs:  # before Trainer sees them: DeepSpeed's would make half floats of the samples
            inputs = dict(inputs)
            parts = {name: inputs.pop(name) for name in ("waveforms", "min_frames")}
            inputs |= extract_features(self.processing_class, **parts, device=self.args.device)
        return super()._prepare_inputs(inputs)

    # Steps

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Of another family's model the CTC loss is computed here, as ours: in float32, summed, by all tokens."""
        if self.is_conformer:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        inputs = dict(inputs)
        labels, attention_mask = inputs.pop("labels"), inputs["attention_mask"]
        outputs = model(**model_inputs(inputs, self.processing_class.feature_extractor))
        loss = summed_ctc_loss(self.base_model, outputs.logits, attention_mask, labels)
        if num_items_in_batch is None:
            loss = loss / (labels >= 0).sum().clamp(min=1)
        else:
            loss = loss / num_items_in_batch
            if self.args.average_tokens_across_devices:  # tokens of all processes, whose gradients are averaged
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW without decay on norms and biases; lower layers more slowly, if `layer_lr_decay` says so."""
        if self.optimizer is None and self.layer_lr_decay != 1.0:
            target = self.model if model is None else model
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            groups = parameter_groups(
                target,
                decayed=set(self.get_decay_parameter_names(target)),
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_lr_decay=self.layer_lr_decay,
            )
            self.optimizer = cls(groups, **options)
        return super().create_optimizer(model)

    def _get_grad_norm(self, model, grad_norm=None):
        """Leaves a step out whose gradient is not finite; GradScaler does so itself in fp16, and both are counted."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None or np.isfinite(float(norm)):  # None: DeepSpeed's, which looks after it itself
            self._skipped_in_a_row = 0
            return norm
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MAX_SKIPPED_STEPS:
            raise ValueError(
                f"{self._skipped_in_a_row} steps in a row had gradients that are not finite, up to step "
                f"{self.state.global_step}: lower --learning_rate, lengthen --warmup_steps, or --precision bf16 or fp32"
            )
        if self.accelerator.scaler is None:
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    # Scores and checkpoints

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """With `ema_decay`, of the average of the weights."""
        is_averaged = self.average is not None and self.is_in_train
        with self.average.applied() if is_averaged else contextlib.nullcontext():
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                share_buffers(self.base_model)
            return self._score_rows(*args, **kwargs)

    def _score_rows(
        self, eval_dataset: datasets.Dataset | None = None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """CER and WER of all rows, measured as `evaluate_rows` measures those of a finished checkpoint: in float32.

        The processes share the rows out. Sharded weights are an exception: all processes have to take each step of the
        model together, so that each scores all rows, in the precision of training.
        """
        started = time.time()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        count, rank = (1, 0) if is_sharded else (self.args.world_size, self.args.process_index)
        model = self.model if is_sharded else self.base_model
        precision = self._training_precision() if is_sharded else in_float32(model)
        is_shown = self.is_world_process_zero() and not self.args.disable_tqdm
        was_training, share = model.training, rows.select(range(rank, len(rows), count))
        with keep_random_state(self.args.device), precision:
            recognizer = Recognizer(model, self.processing_class)
            records, _ = predict_rows(recognizer, share, show_progress=is_shown)
        model.train(was_training)
        pairs = [(record["reference"], record["prediction"]) for record in records]
        if count > 1:
            shares: list = [None] * count
            torch.distributed.all_gather_object(shares, pairs)
            pairs = [shares[place % count][place // count] for place in range(len(rows))]
        self.scored = pairs
        rates = error_rates([reference for reference, _ in pairs], [prediction for _, prediction in pairs])
        metrics = {f"{metric_key_prefix}_{name}": rates[name] for name in ("cer", "wer")}
        metrics |= speed_metrics(metric_key_prefix, started, num_samples=len(rows))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _training_precision(self) -> torch.autocast:
        dtype = torch.float16 if self.args.fp16 else torch.bfloat16
        return torch.autocast(self.args.device.type, dtype=dtype, enabled=self.args.fp16 or self.args.bf16)

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._is_writing_checkpoint else folder

    def save_result(self) -> None:
        """Save the model into the folder of the run, written beside and moved, in the place of an earlier one."""
        run = Path(self.args.output_dir)
        with self._writing(run / WEIGHTS):
            self.save_model(str(run / UNFINISHED), _internal_call=True)  # which leaves pushing to the end of the run
            if self.args.should_save:
                replace_result(run)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A checkpoint holds the moving average beside the weights that training goes on with."""
        super().save_model(output_dir, _internal_call)
        if self._is_writing_checkpoint and self.average is not None and self.args.should_save:
            self.average.save(output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        """Written beside and renamed: a checkpoint is there whole or not at all.

        Raises:
            ValueError: It could not be written, a full disk for instance; those before are as they were.
        """
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self._is_writing_checkpoint = True
        with self._writing(run / name):
            super()._save_checkpoint(model, trial)
            self._choose_best([*self._saved_checkpoints(), run / name])
            self.accelerator.wait_for_everyone()  # each process has written its random numbers' state
            if self.args.should_save:
                self.state.save_to_json(str(run / UNFINISHED / name / STATE))
                write_checksums(run / UNFINISHED / name)
                shutil.rmtree(run / name, ignore_errors=True)
                os.replace(run / UNFINISHED / name, run / name)
                delete_others(run, self._kept_checkpoints(), limit=self.args.save_total_limit)
            self.accelerator.wait_for_everyone()  # the last one may be loaded next

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What is written meanwhile is moved to its place at the end, or removed; a full disk is one line."""
        run = Path(self.args.output_dir)
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not re.search("writ|iostream|unexpected pos", str(error)):
                raise  # torch.save has no class of its own for a full disk
            whole = [folder.name for folder in list_checkpoints(run)]
            told = "--resume_from_checkpoint true" if whole else "start again"
            raise ValueError(
                f"{path} could not be written ({error}); whole checkpoints there: {', '.join(whole) or 'none'}. "
                f"Free some space, then {told}"
            ) from error
        finally:
            self._is_writing_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(run / UNFINISHED, ignore_errors=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The model's files alone, with the weights that were scored, while training goes on.

        Out of memory, since the folder is about to be renamed. Trainer's copies the weights into the folder of the run,
        as if it had ended, and uploads what else lies there.
        """
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        files = model_files(Path(checkpoint_folder))
        if WEIGHTS not in files:
            return  # an adapter, which is merged at the end
        if self.push_in_progress is not None:
            if not (self.push_in_progress.is_done() or self.args.hub_always_push):
                return
            self._finish_current_push()
            if (problem := self.push_in_progress.jobs[0].exception()) is not None:
                logger.warning(f"a checkpoint was not uploaded: {problem}")
        content = {name: path.read_bytes() for name, path in files.items()}
        if self.average is not None:
            content[WEIGHTS] = serialized(weights_of(checkpoint_folder), metadata={"format": "pt"})
        job = HfApi(token=self.args.hub_token).create_commit(
            self.hub_model_id,
            additions(content),
            commit_message=f"Training in progress, step {self.state.global_step}",
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        self.push_in_progress = PushInProgress([job])

    def _saved_checkpoints(self) -> list[Path]:
        """Those of the folder, and the best one so far of the folder that the run was resumed from."""
        run, best = Path(self.args.output_dir), self.state.best_model_checkpoint
        is_elsewhere = best is not None and (Path(best) / STATE).is_file() and not is_inside(Path(best), run)
        elsewhere = [Path(best)] if is_elsewhere else []
        return [*elsewhere, *list_checkpoints(run)]

    def _kept_checkpoints(self) -> list[Path]:
        """Those that must not be deleted: the last one, the best one, and those to average."""
        saved = self._saved_checkpoints()
        kept = saved[-1:] + self._chosen(saved, count=self.args.average_checkpoints, by=self.args.average_by)
        if self.state.best_model_checkpoint is not None:
            kept.append(Path(self.state.best_model_checkpoint))
        return kept

    def _scores(self) -> dict[int, float]:
        """What each evaluation says of the metric that decides, by step."""
        return scores(self.state.log_history, metric=self.args.metric_for_best_model or "loss")

    def _chosen(self, folders: Sequence[Path], *, count: int, by: str = "best") -> list[Path]:
        greater_is_better = bool(self.args.greater_is_better)
        return chosen_checkpoints(folders, self._scores(), count=count, by=by, greater_is_better=greater_is_better)

    def _choose_best(self, folders: Sequence[Path], *, are_checked: bool = False) -> None:
        """The best is the best of those that are there: a step may have been scored better and not been saved."""
        if self.args.metric_for_best_model is not None:
            ranked = self._chosen(folders, count=len(folders))
            best = next(iter(with_sound_weights(ranked) if are_checked else ranked), None)
            self.state.best_model_checkpoint = None if best is None else str(best)

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        """Of a resumed run, the best so far lies beside its checkpoint; what the state calls it may be gone by now, or
        another run's. One that was stopped after its last step takes no other, as Trainer's would.
        """
        result = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            there = list_checkpoints(Path(resume_from_checkpoint).parent)
            there = [folder for folder in there if step_of(folder) <= self.state.global_step]
            self._choose_best(there, are_checked=True)
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else result

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None and not self.average.load(resume_from_checkpoint):
            logger.warning(f"{resume_from_checkpoint} has no moving average of the weights: it begins there")
            self.average.restart()

    def _load_best_model(self) -> None:
        """The best checkpoint, its moving average if it has one; or the mean of several, if that scores better.

        Damaged ones are passed over.
        """
        saved = self._saved_checkpoints()
        self._choose_best(saved, are_checked=True)
        if self.state.best_model_checkpoint is None:
            logger.warning("no checkpoint is undamaged: the result is the model after the last step")
            return
        super()._load_best_model()
        if self.average is not None and self.average.load(self.state.best_model_checkpoint):
            self.average.copy_to_model()
        if self.args.average_checkpoints < 2:
            return
        ranked = self._chosen(saved, count=len(saved), by=self.args.average_by)
        ranked = ranked[::-1] if self.args.average_by == "last" else ranked
        sound = itertools.islice(with_sound_weights(ranked), self.args.average_checkpoints)
        chosen = sorted(sound, key=step_of)
        best = {name: value.detach().clone() for name, value in self.base_model.state_dict().items()}
        self.base_model.load_state_dict(mean_of_checkpoints(chosen))
        metric = self.args.metric_for_best_model
        metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        best_value = self._scores()[step_of(Path(self.state.best_model_checkpoint))]
        value = self._score_rows()[metric]
        is_better = value > best_value if self.args.greater_is_better else value < best_value
        logger.info(
            f"mean of {', '.join(folder.name for folder in chosen)}: {metric} {value:.4f}, "
            f"best single one {best_value:.4f}: the {'mean' if is_better else 'single one'} is the result"
        )
        if not is_better:
            self.base_model.load_state_dict(best)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers share the cores with the training process


@contextlib.contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Without the autocast of training, which accelerate puts on the object as a `forward` of its own."""
    own = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if own is not None:
            model.forward = own
