"""Extend transformers' Trainer: batches bounded in seconds, CER and WER as scores, checkpoints that survive a crash."""

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

from ..data.batching import DurationBatchSampler, MixedBatchSampler
from ..data.dataset import JoinedDataset, extract_features
from ..data.iterable import STATE as STREAM_STATE
from ..data.iterable import StreamedBatches
from ..data.splicing import Cuts, SplicedDataset
from ..decoding.recognizer import Recognizer
from ..families import is_conformer, model_inputs, summed_ctc_loss
from ..files import WEIGHTS, let_others_read_weights
from ..hub.upload import additions, model_files
from ..scoring.evaluation import predict_rows
from ..scoring.metrics import error_rates
from .averaging import WeightAverage, mean_of_checkpoints, share_buffers, weights_of
from .checkpoints import chosen_checkpoints, delete_others, scores, with_sound_weights, write_checksums
from .devices import keep_random_state
from .parameter_groups import parameter_groups
from .plateau import Plateau, measure_batch
from .run_folder import STATE, UNFINISHED, is_inside, list_checkpoints, replace_result, step_of
from .splicing import StartSplicing, find_cuts
from .stream_place import load_place, save_place
from .warm_start import WarmStart

logger = logging.getLogger("hf_asr")

MAX_SKIPPED_STEPS = 20  # consecutive steps; more end the training


class _SetEpoch(TrainerCallback, ExportableState):
    """Set the epoch of the sampler, because Trainer sets it only for accelerate's data loaders.

    Checkpoints store a fingerprint of the batches, so that a run that is resumed with other batches logs a warning.
    """

    def __init__(self, sampler: DurationBatchSampler | MixedBatchSampler, updates_per_epoch: int):
        self.sampler, self.updates_per_epoch = sampler, updates_per_epoch

    def on_train_begin(self, args, state, control, **kwargs):
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if stored != self.state():
            logger.warning(
                f"resumed at step {state.global_step}: the batches are not those of the first run (the number of "
                "processes, max_batch_seconds, warm_start or the recordings have changed), so some utterances of this "
                "epoch are used twice and some not at all"
            )

    def state(self) -> dict:
        return {"args": {}, "attributes": {"batches": self.sampler.fingerprint}}

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(state.global_step // self.updates_per_epoch)


class ConformerTrainer(Trainer):
    """Train our Conformer, or a CTC model of another family, in batches bounded by `args.max_batch_seconds`.

    Args:
        train_durations: Maximum duration of each training utterance after augmentation, in seconds.
        layer_lr_decay: See `parameter_groups`.
        warm_start: Synthetic speech that is trained on first, or in a share of the batches.
        plateau: Callback that gets the measurements of the training batches.

    Raises:
        ValueError: The arguments do not work with FSDP or DeepSpeed.
    """

    def __init__(
        self,
        *args,
        train_durations: Sequence[float] | None = None,
        layer_lr_decay: float = 1.0,
        warm_start: WarmStart | None = None,
        plateau: Plateau | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.train_durations, self.layer_lr_decay, self.warm_start = train_durations, layer_lr_decay, warm_start
        self.splicing = self.train_dataset if isinstance(self.train_dataset, SplicedDataset) else None
        if warm_start is not None:
            self.train_dataset = JoinedDataset(self.train_dataset, warm_start.dataset)
        self.base_model: PreTrainedModel = getattr(self.model, "get_base_model", lambda: self.model)()
        self.is_conformer = is_conformer(self.base_model.config)
        # Our losses implement smoothing; Trainer's implementation would compare frames with labels.
        self.label_smoother = None
        self.base_model.config.label_smoothing = self.args.label_smoothing_factor
        # Our model divides the loss by num_items_in_batch; for other models, `compute_loss` does.
        self.model_accepts_loss_kwargs = True
        self.skipped_steps = self._skipped_in_a_row = 0
        self._is_writing_checkpoint = False
        self.scored: list[tuple[str, str]] = []  # reference and prediction of each row in the last evaluation
        self.stream_states: dict[int, dict] = {}  # of each dataloader worker, after its last batch
        self.average: WeightAverage | None = None
        self.plateau = plateau
        if plateau is not None:
            self.add_callback(plateau)
        self.is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.is_sharded and self.splicing is not None:
            raise ValueError("splicing needs all weights on each device: leave it out with FSDP and DeepSpeed")
        if self.is_sharded and (self.args.ema_decay or self.args.average_checkpoints):
            raise ValueError(
                "ema_decay and average_checkpoints need all weights on each device: leave them out with FSDP and "
                "DeepSpeed"
            )
        if self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise ValueError("fsdp_state_dict_type must be FULL_STATE_DICT: the result of a run is one file")
        if self.is_fsdp_enabled and self.args.eval_on_start:
            raise ValueError("eval_on_start does not work with FSDP, which cannot score before the first step")
        if self.args.ema_decay:
            self.average = WeightAverage(self.model, decay=self.args.ema_decay)
            self.add_callback(self.average)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of this rank's batches, not prepared by accelerate, which would repeat or drop batches."""
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
        sampler = self.batch_sampler()
        updates_per_epoch = -(-len(sampler) // self.args.gradient_accumulation_steps)
        self.remove_callback(_SetEpoch)
        self.add_callback(_SetEpoch(sampler, updates_per_epoch))
        if self.splicing is not None:
            self.remove_callback(StartSplicing)
            self.add_callback(StartSplicing(self, updates_per_epoch))
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator, **options)

    def batch_sampler(self) -> DurationBatchSampler | MixedBatchSampler:
        """Return the sampler of this rank's batches: of recordings, or with `warm_start` also of synthetic speech."""
        options = {
            "max_batch_seconds": self.args.max_batch_seconds,
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
            "num_replicas": self.args.world_size,
            "rank": self.args.process_index,
        }
        recordings = DurationBatchSampler(self.train_durations, **options)
        if self.warm_start is None:
            return recordings
        schedule = self.warm_start.arguments
        return MixedBatchSampler(
            recordings,
            DurationBatchSampler(self.warm_start.durations, **options),
            steps=schedule.steps,
            share=schedule.share,
            fade_steps=schedule.fade_steps,
            gradient_accumulation_steps=self.args.gradient_accumulation_steps,
        )

    def get_batch_samples(self, *args, **kwargs) -> tuple[list, torch.Tensor | int | None]:
        """Return the batches of a step and their number of tokens; remember the place of a stream after them."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        states = [batch.pop(STREAM_STATE) for batch in batches if STREAM_STATE in batch]
        self.stream_states |= {state["worker"]: state for state in states}
        return batches, count

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "waveforms" in inputs:  # first, because DeepSpeed's Trainer would convert the samples to fp16
            inputs = dict(inputs)
            parts = {name: inputs.pop(name) for name in ("waveforms", "min_frames")}
            inputs |= extract_features(self.processing_class, **parts, device=self.args.device)
        return super()._prepare_inputs(inputs)

    # Steps

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss; for another family, the CTC loss as our model computes it: summed, in float32, per token."""
        if self.is_conformer:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch=num_items_in_batch)
        else:
            loss, outputs = self._family_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.plateau is not None and self.plateau.measures(self.state.global_step + 1):
            sums = measure_batch(self.base_model, outputs.logits, inputs["attention_mask"], inputs["labels"])
            self.plateau.add(sums)
        return (loss, outputs) if return_outputs else loss

    def _family_loss(self, model, inputs, *, num_items_in_batch=None):
        """Return loss and outputs of a model of another family."""
        inputs = dict(inputs)
        labels, attention_mask = inputs.pop("labels"), inputs["attention_mask"]
        outputs = model(**model_inputs(inputs, self.processing_class.feature_extractor))
        loss = summed_ctc_loss(self.base_model, outputs.logits, attention_mask, labels)
        if num_items_in_batch is None:
            loss = loss / (labels >= 0).sum().clamp(min=1)
        else:
            loss = loss / num_items_in_batch
            # num_items_in_batch counts the tokens of all processes, and their gradients are averaged.
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return loss, outputs

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Create AdamW without weight decay on norms and biases; `layer_lr_decay` slows lower layers down."""
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
        """Return the gradient's norm; if it is not finite, skip and count the step (in fp16, GradScaler skips it)."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None or np.isfinite(float(norm)):  # None with DeepSpeed, which handles it itself
            self._skipped_in_a_row = 0
            return norm
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MAX_SKIPPED_STEPS:
            raise ValueError(
                f"{self._skipped_in_a_row} steps in a row had gradients that are not finite, up to step "
                f"{self.state.global_step}: lower learning_rate, raise warmup_steps, or set precision to bf16 or fp32"
            )
        if self.accelerator.scaler is None:
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    # Scores and checkpoints

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Score the evaluation rows; with `ema_decay`, with the moving average of the weights."""
        with self._averaged():
            return self._score_rows(*args, **kwargs)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the moving average of the weights if there is one, and the same buffers in all processes."""
        is_averaged = self.average is not None and self.is_in_train
        with self.average.applied() if is_averaged else contextlib.nullcontext():
            if not self.is_sharded:
                share_buffers(self.base_model)
            yield

    @contextlib.contextmanager
    def _recognizer(self, *, is_exact: bool) -> Iterator[Recognizer]:
        """Yield a recogniser with the model, in float32 if `is_exact`; with sharded weights never in float32."""
        model = self.model if self.is_sharded else self.base_model
        precision = in_float32(model) if is_exact and not self.is_sharded else self._training_precision()
        was_training = model.training
        with keep_random_state(self.args.device), precision:
            yield Recognizer(model, self.processing_class)
        model.train(was_training)

    def _gathered(self, share: list) -> list:
        """Return the items of all processes: item k comes from process k modulo their number."""
        count = self.args.world_size
        shares: list = [None] * count
        torch.distributed.all_gather_object(shares, share)
        return [shares[place % count][place // count] for place in range(sum(map(len, shares)))]

    def start_splicing(self) -> None:
        """Align the training recordings, and splice examples from now on."""
        utterances, rank, count = self.splicing.utterances, self.args.process_index, self.args.world_size
        is_shown = self.is_world_process_zero() and not self.args.disable_tqdm
        with self._averaged(), self._recognizer(is_exact=False) as recognizer:
            places = range(rank, len(utterances), count)
            cuts = find_cuts(recognizer, utterances, places, show_progress=is_shown)
        self.splicing.start(Cuts(self._gathered(cuts) if count > 1 else cuts))

    def _score_rows(
        self, eval_dataset: datasets.Dataset | None = None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return CER and WER of all rows, computed in float32 as `evaluate_rows` does for a finished checkpoint.

        Each process scores a share of the rows. With sharded weights, all processes have to run the model together, so
        that each process scores all rows, in the precision of training.
        """
        started = time.time()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        count, rank = (1, 0) if self.is_sharded else (self.args.world_size, self.args.process_index)
        is_shown = self.is_world_process_zero() and not self.args.disable_tqdm
        with self._recognizer(is_exact=True) as recognizer:
            share = rows.select(range(rank, len(rows), count))
            records, _ = predict_rows(recognizer, share, show_progress=is_shown)
        pairs = [(record["reference"], record["prediction"]) for record in records]
        pairs = self._gathered(pairs) if count > 1 else pairs
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
        """Save the model into the folder of the run; an earlier result is replaced only when the files are complete."""
        run = Path(self.args.output_dir)
        with self._writing(run / WEIGHTS):
            self.save_model(str(run / UNFINISHED), _internal_call=True)  # internal calls do not push
            if self.args.should_save:
                replace_result(run)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; into a checkpoint, also the moving average of the weights."""
        super().save_model(output_dir, _internal_call)
        if self._is_writing_checkpoint and self.average is not None and self.args.should_save:
            self.average.save(output_dir)
        if self.args.should_save:
            let_others_read_weights(output_dir or self.args.output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint into another folder and rename it, so that a checkpoint is either complete or absent.

        Raises:
            ValueError: It could not be written, for example on a full disk; earlier checkpoints are unchanged.
        """
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self._is_writing_checkpoint = True
        with self._writing(run / name):
            super()._save_checkpoint(model, trial)
            if self.stream_states:
                save_place(run / UNFINISHED / name, list(self.stream_states.values()), self.args)
            if self.splicing is not None and self.splicing.cuts is not None and self.args.should_save:
                self.splicing.cuts.save(run / UNFINISHED / name)
            self._choose_best([*self._saved_checkpoints(), run / name])
            self.accelerator.wait_for_everyone()  # until each process has written the state of its random numbers
            if self.args.should_save:
                self.state.save_to_json(str(run / UNFINISHED / name / STATE))
                let_others_read_weights(run / UNFINISHED / name)  # also the cuts
                write_checksums(run / UNFINISHED / name)
                shutil.rmtree(run / name, ignore_errors=True)
                os.replace(run / UNFINISHED / name, run / name)
                delete_others(run, self._kept_checkpoints(), limit=self.args.save_total_limit)
            self.accelerator.wait_for_everyone()  # so that no process loads a checkpoint that is not renamed yet

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Remove incomplete files at the end, and turn a write error (a full disk) into a ValueError of one line."""
        run = Path(self.args.output_dir)
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not re.search("writ|iostream|unexpected pos", str(error)):
                raise  # torch.save raises a plain RuntimeError if the disk is full
            whole = [folder.name for folder in list_checkpoints(run)]
            advice = "resume with resume_from_checkpoint true" if whole else "start again"
            raise ValueError(
                f"{path} could not be written ({error}); complete checkpoints: {', '.join(whole) or 'none'}. "
                f"Free some space, then {advice}"
            ) from error
        finally:
            self._is_writing_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(run / UNFINISHED, ignore_errors=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the model files of a checkpoint, with the weights that were scored, while training continues.

        The content is read into memory, because the folder is about to be renamed. Trainer's own method would copy the
        weights into the folder of the run, as if it had ended, and upload everything else in that folder.
        """
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        files = model_files(Path(checkpoint_folder))
        if WEIGHTS not in files:
            return  # low-rank adapters, which are merged at the end
        if self.push_in_progress is not None:
            if not (self.push_in_progress.is_done() or self.args.hub_always_push):
                return
            self._finish_current_push()
            if (problem := self.push_in_progress.jobs[0].exception()) is not None:
                logger.warning(f"the previous checkpoint was not uploaded: {problem}")
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
        """Return the checkpoints of this run and, if it was resumed from another folder, the best checkpoint there."""
        run, best = Path(self.args.output_dir), self.state.best_model_checkpoint
        is_elsewhere = best is not None and (Path(best) / STATE).is_file() and not is_inside(Path(best), run)
        elsewhere = [Path(best)] if is_elsewhere else []
        return [*elsewhere, *list_checkpoints(run)]

    def _kept_checkpoints(self) -> list[Path]:
        """Return the checkpoints that must not be deleted: the last, the best, and those to average."""
        saved = self._saved_checkpoints()
        kept = saved[-1:] + self._chosen(saved, count=self.args.average_checkpoints, by=self.args.average_by)
        if self.state.best_model_checkpoint is not None:
            kept.append(Path(self.state.best_model_checkpoint))
        return kept

    def _scores(self) -> dict[int, float]:
        """Return {step: value} of the metric that decides which checkpoint is best."""
        return scores(self.state.log_history, metric=self.args.metric_for_best_model or "loss")

    def _chosen(self, folders: Sequence[Path], *, count: int, by: str = "best") -> list[Path]:
        greater_is_better = bool(self.args.greater_is_better)
        return chosen_checkpoints(folders, self._scores(), count=count, by=by, greater_is_better=greater_is_better)

    def _choose_best(self, folders: Sequence[Path], *, are_checked: bool = False) -> None:
        """Set the best checkpoint among `folders`: a step with a better score may not have been saved."""
        if self.args.metric_for_best_model is not None:
            ranked = self._chosen(folders, count=len(folders))
            best = next(iter(with_sound_weights(ranked) if are_checked else ranked), None)
            self.state.best_model_checkpoint = None if best is None else str(best)

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        """Set the best checkpoint of a resumed run, and do not train if it was stopped after its last step.

        The best checkpoint is searched beside the one to resume from, because the path in the trainer state may no
        longer exist, or belong to another run.
        """
        result = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            there = list_checkpoints(Path(resume_from_checkpoint).parent)
            there = [folder for folder in there if step_of(folder) <= self.state.global_step]
            self._choose_best(there, are_checked=True)
            if self.splicing is not None:
                cuts = Cuts.load(Path(resume_from_checkpoint), self.splicing.utterances.labels)
                if cuts is not None:
                    self.splicing.start(cuts)
            if isinstance(self.train_dataset, StreamedBatches):
                states = load_place(Path(resume_from_checkpoint), self.args)
                self.stream_states = {state["worker"]: state for state in states}
                self.train_dataset.resume(states)
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else result

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None and not self.average.load(resume_from_checkpoint):
            logger.warning(f"{resume_from_checkpoint} has no moving average of the weights: a new one starts there")
            self.average.restart()

    def _load_best_model(self) -> None:
        """Load the best checkpoint (its moving average if it has one), or the mean of several if that scores better.

        Damaged checkpoints are skipped.
        """
        saved = self._saved_checkpoints()
        self._choose_best(saved, are_checked=True)
        if self.state.best_model_checkpoint is None:
            logger.warning("every checkpoint is damaged: the result is the model after the last step")
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
            f"best checkpoint {best_value:.4f}: the {'mean' if is_better else 'best checkpoint'} is the result"
        )
        if not is_better:
            self.base_model.load_state_dict(best)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # because workers share the cores with the training process


@contextlib.contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Run the model without the autocast of training, which accelerate adds as an attribute `forward` of the object."""
    own = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if own is not None:
            model.forward = own
