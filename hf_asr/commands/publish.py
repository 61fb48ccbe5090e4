"""Publish a checkpoint on the Hub, privately by default, with a card of measured figures."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from ..arguments import Parser
from ..hub.publish import PublishArguments, publish


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="Folder of a checkpoint.")
    parser.add_argument("--hub_model_id", required=True, help="Repository on the Hub: owner/name.")
    parser.add_argument("--public", action="store_true", help="Make the repository public.")
    parser.add_argument("--onnx_dir", type=Path, help="Folder that scripts/export.py wrote from this checkpoint.")
    parser.add_argument(
        "--evaluations", type=Path, nargs="+", default=[], help="More output folders of scripts/evaluate.py."
    )
    parser.add_argument(
        "--examples", type=Path, nargs="+", default=[], help="Recordings to upload, which visitors can try."
    )
    parser.add_argument(
        "--language", nargs="+", help="Language codes; by default, those of the text normalisation en, zh or zh-en."
    )
    parser.add_argument(
        "--license", help="Licence id of the Hub (apache-2.0, cc-by-4.0, …); by default, none is stated."
    )
    parser.add_argument("--create_space", action="store_true", help="Upload the demo as a Space, too.")
    parser.add_argument("--space_id", help="Repository of the Space: owner/name; by default, the model's with -demo.")
    parser.add_argument(
        "--include_transcripts",
        action="store_true",
        help="Upload report.html with transcripts, utterance ids and speakers; by default, it has sums only.",
    )
    parser.add_argument(
        "--allow_partial_score",
        action="store_true",
        help="Publish although the model's own score is of selected speakers only; the card states how many.",
    )
    parser.add_argument("--dry_run", action="store_true", help="Write the card and list the files; upload nothing.")


def run(args: Namespace) -> None:
    given = {item.name: getattr(args, item.name) for item in fields(PublishArguments) if hasattr(args, item.name)}
    publish(PublishArguments(**given))
