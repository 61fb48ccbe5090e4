"""Arguments of a training run: dataclasses, filled from a YAML recipe and overridden by the command line."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

import torch
from transformers import TrainingArguments

from ..arguments import checked, from_yaml
from ..data.concatenation import ConcatenationArguments
from ..data.sources import Source
from ..data.splicing import SplicingArguments
from ..data.spoken import WarmStartArguments
from ..model import ConformerFeatureExtractor
from ..model.tokenization_conformer import TEXT_NORMALIZATIONS
from .devices import has_bf16

VOCABULARIES = ("auto", "keep", "new")
TOKENIZERS = ("char", "bpe")

Options = TypeVar("Options")


@dataclass
class ModelArguments:
    """Which model is trained, and how its checkpoint is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to fine-tune: a folder or a Hub id of a model that AutoModelForCTC loads. Without it, "
            "a new model is trained from scratch."
        },
    )
    model: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of ConformerConfig arguments: '{hidden_size: 144}'. When fine-tuning, only those of "
            "dropout, masking and losses have an effect."
        },
    )
    vocabulary: str = field(
        default="auto",
        metadata={
            "help": "keep: use the checkpoint's vocabulary. new: learn one. auto: keep it if it covers the "
            "transcripts; otherwise add the missing characters or learn a new one."
        },
    )
    lora: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of peft.LoraConfig arguments: '{r: 16}'. When fine-tuning, train low-rank adapters only "
            "and merge them at the end (pip install 'hf_asr[lora]')."
        },
    )
    freeze_encoder_steps: int = field(
        default=0, metadata={"help": "When fine-tuning, train only the output head for the first N steps."}
    )
    layer_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor of the learning rate from one encoder layer to the next lower one. 0.9 trains lower layers "
            "more slowly; 1 trains all layers at the same rate."
        },
    )
    feature_extractor: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of ConformerFeatureExtractor arguments: '{denoise: true}'. When fine-tuning, only denoise "
            "may be changed, because the weights fit the checkpoint's features."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokens that are learned from the transcripts: char or bpe. Default: char."},
    )
    bpe_vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens of a bpe vocabulary; every character is added even if there are more. "
            "Default: 1000."
        },
    )
    text_normalization: str | None = field(
        default=None,
        metadata={
            "help": "Normalisation of transcripts in training and scoring: zh, en, zh-en, basic, none, or auto, which "
            "chooses one from the transcripts. Default: basic. A checkpoint of hf_asr keeps its own unless "
            "vocabulary is new."
        },
    )

    def __post_init__(self):
        self.model = from_yaml("model", self.model, dict) or {}
        self.feature_extractor = from_yaml("feature_extractor", self.feature_extractor, dict) or {}
        self.lora = from_yaml("lora", self.lora, dict)
        accepted = {
            "vocabulary": VOCABULARIES,
            "tokenizer": (None, *TOKENIZERS),
            "text_normalization": (None, "auto", *TEXT_NORMALIZATIONS),
        }
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                words = _or([value for value in values if value])
                raise ValueError(f"{name} must be {words}, not {getattr(self, name)!r}")
        self.feature_extractor = checked(ConformerFeatureExtractor, self.feature_extractor)


def _built(cls: type[Options], options: dict | None) -> Options | None:
    """Return the object that a mapping of options describes; None without one."""
    return None if options is None else cls(**checked(cls, options))


def _or(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"


@dataclass
class DataArguments:
    """Which recordings are trained on and scored, and how they are read."""

    dataset_name: list | str | None = field(
        default=None,
        metadata={
            "help": "Hub id, folder, manifest, shards or saved dataset with recordings and transcripts (see "
            "docs/data.md). Several: '[{name: A, weight: 2}, {name: B, text_column_name: sentence}]'. Each may "
            "override the options below; weight is how often each of its rows is used per epoch."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split_name: str = field(
        default="validation",
        metadata={"help": "Split to score. If the dataset has none, a share of the training split is held out."},
    )
    audio_column_name: str = field(default="audio", metadata={"help": "Column with the recording or its path."})
    text_column_name: str = field(default="text", metadata={"help": "Column with the transcript."})
    speaker_column_name: str = field(default="speaker", metadata={"help": "Column with the speaker. Optional."})
    exclude_speakers: list[str] | None = field(
        default=None, metadata={"help": "Speakers whose utterances are neither trained on nor scored."}
    )
    held_out_share: float = field(
        default=0.05,
        metadata={
            "help": "Share of the training split to hold out if there is no split to score: of its speakers if they "
            "are known, else of its utterances."
        },
    )
    max_duration_seconds: float = field(
        default=30.0, metadata={"help": "Maximum duration of a training recording in seconds; longer ones are skipped."}
    )
    inspect_audio: bool = field(
        default=True,
        metadata={
            "help": "Decode every recording before training. false: trust a duration column or the header of the file."
        },
    )
    cache_audio: bool = field(
        default=False,
        metadata={
            "help": "Decode the training recordings once, into a file in HF_HOME that all epochs and later runs read "
            "from: 230 MB for an hour."
        },
    )
    max_unusable_share: float = field(
        default=0.1,
        metadata={"help": "Maximum share of training rows that may be skipped; more is an error. 1 allows all."},
    )
    replay_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "When fine-tuning, the dataset that the checkpoint was trained on: some of it is mixed into the "
            "training, and its CER is measured before and after."
        },
    )
    replay_share: float = field(
        default=0.2, metadata={"help": "Share of the rows of an epoch that come from replay_dataset_name."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training split while training, without end; max_steps is required."},
    )
    streaming_buffer_size: int = field(
        default=1000, metadata={"help": "Number of rows of a stream that are sorted into batches together."}
    )
    augmentations: list | str | None = field(
        default=None,
        metadata={
            "help": "List of augmentations: '[{name: Gain, p: 0.5}]'. name is a class of audiomentations, "
            "SpeedPerturbation, AddBabble, Codec or Denoise; the other keys are its arguments."
        },
    )
    synthetic_corpus: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of SyntheticCorpusArguments: espeak-ng synthesises a corpus into the folder dataset_name."
        },
    )
    warm_start: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of WarmStartArguments: '{steps: 1000}' trains 1000 steps on the training transcripts, "
            "spoken by espeak-ng, before the recordings; '{share: 0.3, texts: FILE}' mixes them in, with other texts."
        },
    )

    concatenation: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of ConcatenationArguments: '{share: 0.3}' also trains on several utterances with pauses "
            "and noise between them, as they are in long recordings and live audio."
        },
    )

    splicing: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of SplicingArguments: '{share: 0.6}' replaces six of ten training examples with words of "
            "several recordings, as soon as the model can align them."
        },
    )

    def __post_init__(self):
        self.augmentations = from_yaml("augmentations", self.augmentations, list) or []
        self.synthetic_corpus = from_yaml("synthetic_corpus", self.synthetic_corpus, dict)
        self.warm_start = from_yaml("warm_start", self.warm_start, dict)
        self.warm_start_arguments()
        self.concatenation = from_yaml("concatenation", self.concatenation, dict)
        self.concatenation_arguments()
        self.splicing = from_yaml("splicing", self.splicing, dict)
        self.splicing_arguments()
        for name in ("held_out_share", "replay_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")

    def sources(self) -> list[Source]:
        """Return the datasets that `dataset_name` names; what an entry does not define comes from the other arguments.

        Raises:
            ValueError: No dataset is given, or an entry has an unknown key or an invalid weight.
        """
        if not self.dataset_name:
            raise ValueError("dataset_name is required: a folder, a manifest, shards, a saved dataset or a Hub id")
        given = self.dataset_name
        if isinstance(given, str):
            is_list = given.lstrip().startswith("[")
            given = from_yaml("dataset_name", given, list) if is_list else [{"name": given}]
        inherited = {
            "config_name": self.dataset_config_name,
            "train_split_name": self.train_split_name,
            "eval_split_name": self.eval_split_name,
            "audio_column_name": self.audio_column_name,
            "text_column_name": self.text_column_name,
        }
        known = [item.name for item in fields(Source)]
        for entry in given:
            if not isinstance(entry, dict) or "name" not in entry or set(entry) - set(known):
                keys = ", ".join(known)
                raise ValueError(f"dataset_name: {entry!r}: each entry must be a mapping with a name; its keys: {keys}")
            weight = entry.get("weight", 1)
            if not isinstance(weight, int) or weight < 1:
                raise ValueError(
                    f"dataset_name: {entry['name']}: weight must be a whole number, 1 or more, not {weight!r}"
                )
        return [Source(**(inherited | entry)) for entry in given]

    def warm_start_arguments(self) -> WarmStartArguments | None:
        """Return `warm_start` as an object; None without it.

        Raises:
            ValueError: An unknown key or an invalid value.
        """
        return _built(WarmStartArguments, self.warm_start)

    def concatenation_arguments(self) -> ConcatenationArguments | None:
        """Return `concatenation` as an object; None without it.

        Raises:
            ValueError: An unknown key or an invalid value.
        """
        return _built(ConcatenationArguments, self.concatenation)

    def splicing_arguments(self) -> SplicingArguments | None:
        """Return `splicing` as an object; None without it.

        Raises:
            ValueError: An unknown key or an invalid value.
        """
        return _built(SplicingArguments, self.splicing)

    def config_names(self) -> str | None:
        """Return the configuration of each of `sources()`, separated by commas; None if no source has one."""
        names = [source.config_name for source in self.sources()]
        return ", ".join(name or "default" for name in names) if any(names) else None


@dataclass
class ConformerTrainingArguments(TrainingArguments):
    """Extend transformers' TrainingArguments with defaults for a Conformer and with batches bounded in seconds."""

    max_batch_seconds: float = field(
        default=120.0,
        metadata={"help": "Maximum padded batch size per process in seconds: utterances × longest utterance."},
    )
    precision: str = field(
        default="auto",
        metadata={"help": "bf16, fp16, fp32 or auto. auto: bf16 if the hardware computes in it, else fp32."},
    )
    find_batch_seconds: bool = field(
        default=False,
        metadata={"help": "Before training, find the largest max_batch_seconds that fits into the memory of the GPU."},
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Decay of an exponential moving average of the weights (0.999, for example), which is scored and "
            "saved instead of the weights. 0 disables it."
        },
    )
    average_checkpoints: int = field(
        default=0,
        metadata={
            "help": "Number of checkpoints whose mean is the result, if its score is better than that of the best "
            "checkpoint. 0 disables it."
        },
    )
    average_by: str = field(
        default="best",
        metadata={"help": "Which checkpoints are averaged: best (by metric_for_best_model) or last."},
    )
    regularization_start: str | None = field(
        default=None,
        metadata={
            "help": "When dropout, layerdrop, SpecAugment, label smoothing and the consistency loss start: after a "
            "number of steps, or plateau: when CTC's plateau is left. Default: at full strength from the first step."
        },
    )
    regularization_ramp_steps: int = field(
        default=500,
        metadata={"help": "With regularization_start, the steps from no regularisation to full strength."},
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Number of threads of a process that trains on CPU. Default: the cores of the machine divided by "
            "the processes."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Delete the run in output_dir when the new run is ready to train. Files of other programs are kept."
        },
    )

    output_dir: str | None = field(default=None, metadata={"help": "Folder for the model and all results."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Number of warm-up steps; if less than 1, their share of all steps."}
    )
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Schedule of the learning rate after the warm-up."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Log the loss every N steps."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to score: steps, epoch or no."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save a checkpoint: steps, epoch or no."})
    eval_steps: float | None = field(default=200, metadata={"help": "Score every N steps."})
    save_steps: float = field(default=200, metadata={"help": "Save a checkpoint every N steps."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Maximum number of checkpoints to keep; the best checkpoint is one of them."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "The result is the best checkpoint instead of the last weights."}
    )
    metric_for_best_model: str | None = field(
        default="cer", metadata={"help": "Error rate that decides which checkpoint is best: cer or wer."}
    )
    greater_is_better: bool | None = field(
        default=False, metadata={"help": "Do not change: a lower error rate is better."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Do not change: the columns of a dataset are not model inputs."}
    )
    dataloader_num_workers: int = field(
        default=1, metadata={"help": "Number of processes per training process that decode and augment recordings."}
    )
    dataloader_persistent_workers: bool = field(
        default=False, metadata={"help": "Keep these processes from one epoch to the next."}
    )
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where losses and scores are logged: tensorboard, wandb, none, …"}
    )
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Whether the repository that push_to_hub creates is private."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("output_dir is required: the folder for the results")
        check_folder(Path(self.output_dir))
        self._check_values()
        self.greater_is_better = False
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._choose_precision()
        super().__post_init__()
        if self.use_cpu:
            # accelerate launch and torchrun set OMP_NUM_THREADS=1, which halves the speed of two cores.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            torch.set_num_threads(self.cpu_threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))

    def _check_values(self) -> None:
        """Raise ValueError for a value that an argument does not accept."""
        if self.precision not in ("auto", "bf16", "fp16", "fp32"):
            raise ValueError(f"precision must be auto, bf16, fp16 or fp32, not {self.precision!r}")
        if self.average_by not in ("best", "last"):
            raise ValueError(f"average_by must be best or last, not {self.average_by!r}")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub needs hub_model_id owner/name")
        if self.push_to_hub and self.hub_strategy not in ("every_save", "end"):
            raise ValueError(
                f"hub_strategy must be every_save or end, not {self.hub_strategy!r}: the optimiser is never uploaded"
            )
        if not self.max_batch_seconds > 0:
            raise ValueError(f"max_batch_seconds must be more than 0, not {self.max_batch_seconds}")
        if self.metric_for_best_model not in ("cer", "wer", "eval_cer", "eval_wer"):
            raise ValueError(f"metric_for_best_model must be cer or wer, not {self.metric_for_best_model!r}")
        if self.greater_is_better:
            raise ValueError("greater_is_better must be false: a lower error rate is better")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, not {self.ema_decay}")
        start = None if self.regularization_start is None else str(self.regularization_start)
        if start not in (None, "plateau") and not start.isdecimal():
            raise ValueError(f"regularization_start must be plateau or a number of steps, not {start!r}")
        self.regularization_start = start
        if self.regularization_ramp_steps < 0:
            raise ValueError(f"regularization_ramp_steps must be 0 or more, not {self.regularization_ramp_steps}")

    def _choose_precision(self) -> None:
        """Set `precision`, `bf16` and `fp16` so that they agree, and resolve `auto`."""
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION")  # from the --config_file of accelerate launch
        if self.precision == "auto" and launched in ("bf16", "fp16"):
            self.precision = launched
        if self.precision == "auto" and not (self.bf16 or self.fp16):
            self.precision = "bf16" if has_bf16(use_cpu=self.use_cpu) else "fp32"
        self.bf16 = self.bf16 or self.precision == "bf16"
        self.fp16 = self.fp16 or self.precision == "fp16"
        self.precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
        if self.precision == "fp32" and launched is not None:
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # the argument overrides accelerate's file


def check_folder(path: Path) -> None:
    """Raise ValueError if `path` is a file, or a folder that cannot be created or written to."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"output_dir {path}: {existing} is a file, choose a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {path}: {existing} is not writable, choose another folder")
