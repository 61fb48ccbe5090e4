"""Arguments of the export: imports nothing, because optimum-cli loads this file for every command of its own."""

import argparse
from pathlib import Path

TARGETS = ("onnx", "sherpa-onnx", "tensorrt", "openvino")
PRECISIONS = ("int8", "int8-static", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint of ours, a folder or a Hub id")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder; an earlier export there is replaced")
    parser.add_argument("--target", choices=TARGETS, default="onnx")
    parser.add_argument("--quantize", choices=PRECISIONS, help="write this precision too; int8-static needs data")
    parser.add_argument("--with_frontend", action="store_true", help="onnx: waveforms in, instead of features")
    parser.add_argument(
        "--dataset_name",
        help="recordings to compare graph and checkpoint on. Without it: the validation data of the checkpoint's "
        "training, or where these are not on this machine, speech of espeak-ng that the checkpoint transcribes well",
    )
    parser.add_argument("--dataset_config_name")
    parser.add_argument("--eval_split_name", default="validation", help="split of --dataset_name")
    parser.add_argument("--calibration_split_name", default="train", help="int8-static: ranges are found in it")
    parser.add_argument("--max_utterances", type=int, default=200, help="how many of them, seeded")
    parser.add_argument("--allow_differences", action="store_true", help="keep graphs that the comparison refuses")
    parser.add_argument(
        "--allow_other_features",
        action="store_true",
        help="sherpa-onnx: export a checkpoint that was trained on other features than sherpa-onnx computes",
    )
