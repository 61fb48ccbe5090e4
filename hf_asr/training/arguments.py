"""What a training run can be told: dataclasses, filled from a YAML recipe and then from the command line."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from transformers import TrainingArguments

from ..arguments import checked, from_yaml
from ..model import ConformerFeatureExtractor
from ..model.tokenization_conformer import TEXT_NORMALIZATIONS
from .devices import has_bf16

VOCABULARIES = ("auto", "keep", "new")
TOKENIZERS = ("char", "bpe")


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to go on from, a folder or a Hub id: ours, or any that AutoModelForCTC loads. None "
            "trains from scratch."
        },
    )
    model: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of ConformerConfig arguments: '{hidden_size: 144}'. To a checkpoint, only those of "
            "dropout, masking and losses are applied."
        },
    )
    vocabulary: str = field(
        default="auto",
        metadata={
            "help": "Of a checkpoint: keep; auto, which adds the characters of the transcripts that it lacks; or new, "
            "learnt from them."
        },
    )
    lora: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of peft.LoraConfig arguments: '{r: 16}' trains low-rank adapters alone, merged at the end "
            "(pip install hf_asr[lora])."
        },
    )
    freeze_encoder_steps: int = field(
        default=0, metadata={"help": "First steps, in which of a checkpoint the head alone is trained."}
    )
    layer_lr_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of an encoder layer over that of the one above it."}
    )
    feature_extractor: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of ConformerFeatureExtractor arguments: '{denoise: true}', which is the one that a "
            "checkpoint takes; its weights fit the features that they were trained on."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokens to learn from the transcripts: char (which None means) or bpe."},
    )
    bpe_vocab_size: int | None = field(
        default=None,
        metadata={"help": "Most tokens of a bpe vocabulary (None means 1000); at least its characters."},
    )
    text_normalization: str | None = field(
        default=None,
        metadata={
            "help": "Rule for transcripts in training and scoring: zh, en, zh-en, basic (which None means), none, "
            "or auto, chosen from the transcripts. Checkpoints of ours keep theirs with their vocabulary."
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
                raise ValueError(f"{name} is {_or([value for value in values if value])}, not {getattr(self, name)!r}")
        self.feature_extractor = checked(ConformerFeatureExtractor, self.feature_extractor)


def _or(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"


@dataclass
class Source:
    """One of the datasets that are trained on together."""

    name: str
    config_name: str | None
    train_split_name: str
    eval_split_name: str
    audio_column_name: str
    text_column_name: str
    weight: int = 1


@dataclass
class DataArguments:
    dataset_name: list | str | None = field(
        default=None,
        metadata={
            "help": "Hub id, folder, manifest, shards or saved dataset with the recordings (see the README). "
            "Or several: '[{name: A, weight: 2}, {name: B, text_column_name: sentence}]', each with its own of the "
            "arguments below and a weight, the times it comes in an epoch."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split_name: str = field(
        default="validation",
        metadata={"help": "Split to score. Where the dataset has none, a share of the training split is held out."},
    )
    audio_column_name: str = field(default="audio", metadata={"help": "Column with the audio or its path."})
    text_column_name: str = field(default="text", metadata={"help": "Column with the transcript."})
    speaker_column_name: str = field(default="speaker", metadata={"help": "Column with the speaker, if there is one."})
    exclude_speakers: list[str] | None = field(
        default=None, metadata={"help": "Speakers left out of training and of the scores during training."}
    )
    held_out_share: float = field(
        default=0.05, metadata={"help": "Share of the training split (of its speakers, if known) to hold out."}
    )
    max_duration_seconds: float = field(default=30.0, metadata={"help": "Longer recordings are not trained on."})
    inspect_audio: bool = field(
        default=True,
        metadata={"help": "Decode every recording before training. False believes a duration column or the headers."},
    )
    max_unusable_share: float = field(
        default=0.1,
        metadata={"help": "Share of the training rows that may be skipped; more is an error. 1 allows all."},
    )
    replay_dataset_name: str | None = field(
        default=None,
        metadata={"help": "What a checkpoint was trained on before: mixed in, and scored before and after."},
    )
    replay_share: float = field(default=0.2, metadata={"help": "Share of an epoch's rows that are old ones."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the training split as it is trained on, without end: give --max_steps."}
    )
    streaming_buffer_size: int = field(
        default=1000, metadata={"help": "Rows of a stream that are sorted into batches together."}
    )
    augmentations: list | str | None = field(
        default=None,
        metadata={"help": "List of mappings: name, a class of audiomentations or SpeedPerturbation, and arguments."},
    )
    synthetic_corpus: dict | str | None = field(
        default=None,
        metadata={"help": "Mapping of SyntheticCorpusArguments: espeak-ng speaks such a corpus into dataset_name."},
    )

    def __post_init__(self):
        self.augmentations = from_yaml("augmentations", self.augmentations, list) or []
        self.synthetic_corpus = from_yaml("synthetic_corpus", self.synthetic_corpus, dict)
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share lies between 0 and 1, not {self.held_out_share}")
        if not 0 < self.replay_share < 1:
            raise ValueError(f"replay_share lies between 0 and 1, not {self.replay_share}")

    def sources(self) -> list[Source]:
        """The datasets that `dataset_name` means, each with what it does not say for itself.

        Raises:
            ValueError: None is given, or one has a key that there is not.
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
                raise ValueError(f"dataset_name: {entry!r}: each is a mapping with a name, out of {', '.join(known)}")
            weight = entry.get("weight", 1)
            if not isinstance(weight, int) or weight < 1:
                raise ValueError(f"dataset_name: {entry['name']}: weight is a whole number, 1 or more, not {weight!r}")
        return [Source(**(inherited | entry)) for entry in given]

    def config_names(self) -> str | None:
        """The configurations of `sources()`, of several each one's; None if none is named."""
        names = [source.config_name for source in self.sources()]
        return ", ".join(name or "default" for name in names) if any(names) else None


@dataclass
class ConformerTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of a Conformer, and what they lack."""

    max_batch_seconds: float = field(
        default=120.0, metadata={"help": "Bound on utterances times longest of a batch and process, in seconds."}
    )
    precision: str = field(
        default="auto", metadata={"help": "bf16, fp16, fp32, or auto: bf16 wherever the hardware computes in it."}
    )
    find_batch_seconds: bool = field(
        default=False,
        metadata={"help": "Find the largest max_batch_seconds whose longest batch fits on the GPU, before training."},
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Keep a moving average of the weights, 0.999 say, scored and saved in place of them; 0: no."},
    )
    average_checkpoints: int = field(
        default=0,
        metadata={"help": "The result is the mean of so many checkpoints, if it beats the best one; 0: no."},
    )
    average_by: str = field(
        default="best", metadata={"help": "Which checkpoints are averaged: the best by CER, or the last."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of a process that trains on CPU; the machine's cores, shared, if not given."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Delete the run that the folder holds once the new one is ready to train; other files stay."},
    )

    output_dir: str | None = field(default=None, metadata={"help": "Where the result goes."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of all steps, to the peak."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule after the warm-up."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logged losses."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to score: steps, epoch or no."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save: as eval_strategy."})
    eval_steps: float | None = field(default=200, metadata={"help": "Steps between two scores."})
    save_steps: float = field(default=200, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best one among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether the best checkpoint is the result."})
    metric_for_best_model: str | None = field(default="cer", metadata={"help": "What decides: cer or wer."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "Fewer errors are better: leave it."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are no model inputs: leave it."})
    dataloader_num_workers: int = field(default=1, metadata={"help": "Processes that decode and augment."})
    dataloader_persistent_workers: bool = field(default=False, metadata={"help": "Keep them between epochs."})
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where curves go."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Whether what --push_to_hub creates is private."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("output_dir is required: where the result goes")
        check_folder(Path(self.output_dir))
        if self.precision not in ("auto", "bf16", "fp16", "fp32"):
            raise ValueError(f"precision is auto, bf16, fp16 or fp32, not {self.precision!r}")
        if self.average_by not in ("best", "last"):
            raise ValueError(f"average_by is best or last, not {self.average_by!r}")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub needs --hub_model_id owner/name")
        if self.push_to_hub and self.hub_strategy not in ("every_save", "end"):
            raise ValueError(f"hub_strategy is every_save or end, not {self.hub_strategy!r}: no optimiser is uploaded")
        if not self.max_batch_seconds > 0:
            raise ValueError(f"max_batch_seconds is more than 0, not {self.max_batch_seconds}")
        if self.metric_for_best_model not in ("cer", "wer", "eval_cer", "eval_wer"):
            raise ValueError(f"metric_for_best_model is cer or wer, not {self.metric_for_best_model!r}")
        if self.greater_is_better:
            raise ValueError("greater_is_better: fewer errors are better, leave it out")
        self.greater_is_better = False
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay lies between 0 and 1, not {self.ema_decay}")
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION")  # from the file that accelerate launch was given
        if self.precision == "auto" and launched in ("bf16", "fp16"):
            self.precision = launched
        if self.precision == "auto" and not (self.bf16 or self.fp16):
            self.precision = "bf16" if has_bf16(use_cpu=self.use_cpu) else "fp32"
        self.bf16 = self.bf16 or self.precision == "bf16"
        self.fp16 = self.fp16 or self.precision == "fp16"
        self.precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
        if self.precision == "fp32" and launched is not None:
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # what was asked for goes over accelerate's file
        super().__post_init__()
        if self.use_cpu:
            # accelerate launch and torchrun set OMP_NUM_THREADS=1: half the speed of two cores, unasked for.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            torch.set_num_threads(self.cpu_threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def check_folder(path: Path) -> None:
    """Raises ValueError if `path` is a file, or a folder that cannot be made or written."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"output_dir {path}: {there} is a file, name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {path}: {there} cannot be written, name another folder")
