"""Import a WeNet model directory: encoder, CTC head and attention decoders."""

from argparse import Namespace

from ..arguments import Parser
from ..hub.wenet import import_wenet


def add_arguments(parser: Parser) -> None:
    parser.add_argument("wenet_dir", help="Folder with train.yaml, units.txt and final.pt.")
    parser.add_argument("--output_dir", required=True, help="New folder for the model and its processor.")


def run(args: Namespace) -> None:
    import_wenet(args.wenet_dir, args.output_dir)
    print(f"{args.output_dir}: model and processor")
