"""The command `hf-asr`: sub-commands, one file of `commands/` each."""

import importlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from types import ModuleType

from .arguments import Parser, hint, parse
from .console import command, on_one_line

COMMANDS = {
    "prepare": "turn a public corpus into a dataset",
    "train": "train a recogniser and score it",
    "evaluate": "score a checkpoint on a split of a dataset",
    "transcribe": "transcribe recordings, folders and datasets",
    "align": "align transcripts with their recordings",
    "check-data": "find defects of a dataset and wrong transcripts",
    "compare": "report which of two checkpoints is better",
    "augment-preview": "write examples of a recipe's augmentations",
    "lm": "train an n-gram language model on texts",
    "tune-decoding": "find the weights of a beam search on validation data",
    "export": "export a checkpoint to ONNX and other runtimes",
    "serve": "serve a checkpoint over REST",
    "import-wenet": "import a WeNet model",
    "publish": "publish a checkpoint on the Hub with a card",
}


def build_parser(name: str) -> Parser:
    """Return the parser of one sub-command with all its options."""
    return _add_commands(_new_parser(), chosen=name)[name]


def main(argv: Sequence[str] | None = None) -> None:
    """Run `hf-asr COMMAND …`; errors become one line.

    Raises:
        SystemExit: An error or a wrong argument; its code is 2 for a wrong argument.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["help"]:
        argv = ["--help"]
    with command():
        parser, name = _new_parser(), argv[0] if argv else None
        commands = _add_commands(parser, chosen=name)
        if name in commands:
            args = parse(commands[name], argv[1:])
            return None if _is_left_to_another_process(name, args) else _module(name).run(args)
        if name not in ("-h", "--help"):
            what = (
                "a command is needed"
                if name is None
                else f"unknown command {on_one_line(name)!r}{hint(name, COMMANDS)}"
            )
            parser.error(f"{what}; the commands are: {', '.join(COMMANDS)}")
        parser.parse_args(argv)


def _is_left_to_another_process(name: str, args: Namespace) -> bool:
    """Return whether the first process does the work, where torchrun or accelerate launch has started several.

    Only a training and the transcription of a dataset divide their work, and each server answers requests.
    """
    if name in ("train", "serve") or (name == "transcribe" and args.dataset_name is not None):
        return False
    from accelerate.utils import get_cpu_distributed_information  # imports PyTorch, as the commands do

    launched = get_cpu_distributed_information()
    if launched.world_size < 2 or launched.rank == 0:
        return False
    print(f"note: {name} is not divided: process {launched.rank} leaves the work to process 0", file=sys.stderr)
    return True


def _new_parser() -> Parser:
    return Parser(prog="hf-asr", description="Train, measure, export and serve speech recognisers.")


def _add_commands(parser: Parser, *, chosen: str | None) -> dict[str, Parser]:
    """Add all sub-commands; only the module of the chosen one is imported, for its options."""
    group = parser.add_subparsers(metavar="COMMAND", required=True)
    commands = {name: group.add_parser(name, help=text) for name, text in COMMANDS.items()}
    if chosen in commands:
        module = _module(chosen)
        commands[chosen].description = module.__doc__.partition("\n\n")[0]
        module.add_arguments(commands[chosen])
    return commands


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.commands.{name.replace('-', '_')}")
