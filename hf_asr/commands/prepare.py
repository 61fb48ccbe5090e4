"""Turn a public corpus into a dataset for training; the last line of the output is a JSON object."""

import importlib
import logging
from argparse import Namespace
from pathlib import Path

from ..arguments import Parser
from ..console import print_json
from ..corpora.prepare import prepare

CORPORA = ("aishell1", "aishell3", "thchs30", "wenetspeech", "librispeech", "common_voice", "fleurs")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("corpus", choices=CORPORA, help="Name of the corpus.")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="Folder for the dataset, which --dataset_name takes."
    )
    parser.add_argument(
        "--source",
        type=Path,
        help="Folder with the corpus as published: extracted, or the archives, which are extracted there. Without it, "
        "the corpus is downloaded.",
    )
    parser.add_argument(
        "--download_dir",
        type=Path,
        help="Without --source, folder for the archives and their content. Default: OUTPUT_DIR-source.",
    )
    parser.add_argument(
        "--parts", nargs="+", help="Published parts to use. By default all, without those that others contain."
    )
    parser.add_argument(
        "--language", help="Of a corpus in several languages, the name of its folder: zh-CN, cmn_hans_cn, …"
    )


def run(args: Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    corpus = importlib.import_module(f"..corpora.{args.corpus}", __package__).CORPUS
    options = {"source": args.source, "download_dir": args.download_dir, "parts": args.parts, "language": args.language}
    print_json(prepare(corpus, args.output_dir, **options))
