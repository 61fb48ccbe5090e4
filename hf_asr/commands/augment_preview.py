"""Write what a recipe's augmentations do to a few utterances: recordings and spectrograms before and after."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np

from ..arguments import Parser, add_config, add_dataclasses, to_dataclasses
from ..data.augment import build_augmentation
from ..training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from ..training.preview import preview
from ..training.splits import load_splits


@dataclass
class PreviewArguments:
    num_utterances: int = field(
        default=4, metadata={"help": "Number of utterances of the training split, drawn with the seed."}
    )
    preview_epoch: int = field(default=0, metadata={"help": "Epoch whose augmentation is shown."})


CLASSES = (ModelArguments, DataArguments, ConformerTrainingArguments, PreviewArguments)


def add_arguments(parser: Parser) -> None:
    add_config(parser)
    add_dataclasses(parser, CLASSES)


def run(args: Namespace) -> None:
    datasets.disable_progress_bars()
    _, data_args, training_args, preview_args = to_dataclasses(args, CLASSES)
    rows = load_splits(data_args, seed=training_args.seed).train
    if data_args.streaming:
        rows = datasets.Dataset.from_list(list(rows.take(200)))
    augment = build_augmentation(data_args.augmentations, seed=training_args.seed, rows=rows)
    if augment is None:
        raise ValueError("the recipe has no augmentations: there is nothing to show")
    folder = Path(training_args.output_dir) / "augment-preview"
    for i in np.random.default_rng(training_args.seed).permutation(len(rows))[: preview_args.num_utterances]:
        print(preview(rows[int(i)], augment, folder, preview_args.preview_epoch))
