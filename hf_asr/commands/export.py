"""Export a checkpoint to a graph for other runtimes or to WeNet, and check that both give the same result.

At the top, this file imports nothing outside the standard library: optimum-cli loads it by its path, for the options.
"""

import argparse
from pathlib import Path

TARGETS = ("onnx", "sherpa-onnx", "tensorrt", "openvino", "wenet")
PRECISIONS = ("int8", "int8-static", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint of hf_asr: folder or Hub id.")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="Folder of the export; an earlier export there is replaced."
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="onnx",
        help="Runtime that the graph is for; wenet: a model directory of WeNet.",
    )
    parser.add_argument(
        "--quantize", choices=PRECISIONS, help="Write a graph of this precision, too; int8-static needs --dataset_name."
    )
    parser.add_argument(
        "--with_frontend", action="store_true", help="Target onnx: the graph takes waveforms instead of features."
    )
    parser.add_argument(
        "--streaming",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        help="Targets onnx and sherpa-onnx: a graph for live audio, which takes a chunk and a cache.",
    )
    parser.add_argument(
        "--chunk_size", type=int, help="--streaming: encoder frames of a chunk; the checkpoint's own by default."
    )
    parser.add_argument(
        "--num_left_chunks",
        type=int,
        help="--streaming: chunks before its own one that a frame sees; the checkpoint's own by default.",
    )
    parser.add_argument(
        "--dataset_name",
        help="Recordings to compare graph and checkpoint on. By default: the validation data of the checkpoint's "
        "training or, if this machine does not have them, speech of espeak-ng that the checkpoint transcribes well.",
    )
    parser.add_argument("--dataset_config_name", help="Configuration of --dataset_name on the Hub.")
    parser.add_argument("--eval_split_name", default="validation", help="Split of --dataset_name to compare on.")
    parser.add_argument(
        "--calibration_split_name", default="train", help="int8-static: split that gives the ranges of activations."
    )
    parser.add_argument(
        "--max_utterances", type=int, default=200, help="Number of utterances to compare on, drawn with a fixed seed."
    )
    parser.add_argument("--allow_differences", action="store_true", help="Keep graphs that the comparison refuses.")
    parser.add_argument(
        "--allow_other_features",
        action="store_true",
        help="sherpa-onnx, wenet: export a checkpoint that was trained on other features than these compute.",
    )


def _boolean(text: str) -> bool:
    """Return what other commands read in a truth value."""
    from transformers.hf_argparser import string_to_bool

    return string_to_bool(text)


def run(args: argparse.Namespace) -> None:
    import logging
    import sys

    import datasets

    from ..export.run import export

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_asr").setLevel(logging.INFO)
    datasets.disable_progress_bars()
    if refused := export(args):
        sys.exit("\n".join(f"refused: {entry['reason']}" for entry in refused))
