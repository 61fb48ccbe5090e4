"""Train a recogniser and score it."""

import logging
import os
import re
import shlex
import sys
from argparse import Namespace
from pathlib import Path

import datasets
import torch

from ..arguments import Parser, add_config, add_dataclasses, to_dataclasses
from ..training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from ..training.prepare import check_run
from ..training.results import open_result_repository, push_result
from ..training.run import train

CLASSES = (ModelArguments, DataArguments, ConformerTrainingArguments)


def add_arguments(parser: Parser) -> None:
    add_config(parser)
    add_dataclasses(parser, CLASSES)


def run(args: Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    model_args, data_args, training_args = to_dataclasses(args, CLASSES)
    check_overrides(args, training_args)
    if training_args.push_to_hub:
        check_run(model_args, data_args, training_args)  # first: a mistake must not create a repository
        open_result_repository(training_args)
    train(model_args, data_args, training_args, command=command_line())
    if training_args.push_to_hub and training_args.process_index == 0:
        push_result(training_args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # left to the end of the interpreter, gloo sometimes aborts


def check_overrides(args: Namespace, training_args: ConformerTrainingArguments) -> None:
    """Raise ValueError for an option of the command line that another value of the recipe makes useless."""
    left = set(args.recipe) - args.given
    if "num_train_epochs" in args.given and "max_steps" in left and training_args.max_steps > 0:
        raise ValueError(
            f"--num_train_epochs has no effect, because max_steps is {training_args.max_steps} in {args.config}: add "
            "--max_steps -1"
        )
    is_other = "dataset_name" in args.given and args.dataset_name != args.recipe.get("dataset_name")
    makes_corpus = "synthetic_corpus" in left and args.synthetic_corpus is not None
    if is_other and makes_corpus and not (Path(args.dataset_name) / "corpus.json").is_file():
        raise ValueError(
            f"--dataset_name {args.dataset_name}: {args.config} makes a synthetic corpus there. To train on "
            "recordings, add --synthetic_corpus null; to make the corpus there, add --synthetic_corpus '{…}'"
        )


def command_line() -> str:
    """Return the command line that started this process, with the launcher, but without tokens and without paths."""
    program = Path(sys.argv[0])
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        launcher = "accelerate launch " if "ACCELERATE_MIXED_PRECISION" in os.environ else "torchrun "
        processes = int(os.environ.get("WORLD_SIZE", 1))
        name = "--num_processes" if launcher.startswith("accelerate") else "--nproc_per_node"
        launcher += f"{name} {processes} " if processes > 1 else ""
    else:
        launcher = "python " if program.suffix == ".py" else ""
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    elif program.suffix != ".py":
        program = Path(program.name)  # hf-asr, without the folder that it is installed in
    words = shlex.join([str(program), *sys.argv[1:]])
    words = re.sub(r"(--[\w-]*token)([ =])\S+", r"\1\2…", words)
    return launcher + re.sub(r"(?<![\w~./])(?:/[^\s/'\"]+)+/([^\s/'\"]+)", r"\1", words)
