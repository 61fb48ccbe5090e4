"""Options of the commands that read a dataset, and the rows that they name."""

import argparse

import datasets

from ..data.rows import chosen_by, names_in
from ..data.sources import Source


def add_source_arguments(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Add `--dataset_name` and the options that say how to read it and which speakers to take."""
    add_dataset_arguments(parser, is_required=is_required)
    parser.add_argument("--eval_split_name", default="validation", help="Split to score.")
    parser.add_argument("--speakers", nargs="+", help="Score only the utterances of these speakers.")


def add_dataset_arguments(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Add `--dataset_name` and the options that say how to read it."""
    add_recordings_arguments(parser, is_required=is_required)
    parser.add_argument("--text_column_name", default="text", help="Column with the transcript.")
    parser.add_argument("--speaker_column_name", default="speaker", help="Column with the speaker.")


def add_recordings_arguments(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Add `--dataset_name` and the options that say where its recordings are."""
    parser.add_argument(
        "--dataset_name",
        required=is_required,
        help="Hub id, folder, manifest, shards or saved dataset with recordings and transcripts (see docs/data.md).",
    )
    parser.add_argument("--dataset_config_name", help="Configuration of a dataset on the Hub.")
    parser.add_argument("--audio_column_name", default="audio", help="Column with the recording or its path.")


def source_of(args: argparse.Namespace) -> Source:
    """Return the dataset that the arguments name."""
    return Source(
        args.dataset_name,
        args.dataset_config_name,
        audio_column_name=args.audio_column_name,
        text_column_name=args.text_column_name,
    )


def load_rows(args: argparse.Namespace) -> tuple[datasets.Dataset, dict[str, int] | None]:
    """Return the rows to score, and the numbers of their and of all speakers; None for a whole split.

    Raises:
        ValueError: The dataset, the split, a column or a speaker does not exist.
    """
    rows = source_of(args).load(args.eval_split_name)
    if not args.speakers:
        return rows, None
    column = args.speaker_column_name
    if column not in rows.column_names:
        raise ValueError(f"--speakers needs a column {column!r}; there are: {', '.join(rows.column_names)}")
    wanted, existing = set(args.speakers), set(names_in(rows, column)) - {None}
    if unknown := sorted(wanted - existing):
        raise ValueError(
            f"--speakers {' '.join(unknown)}: they have no utterance in {args.eval_split_name!r}; "
            f"its speakers are: {', '.join(sorted(existing)[:20])}"
        )
    chosen = chosen_by(rows, column, wanted.__contains__)
    return chosen, {"speakers": len(wanted), "of": len(existing)} if len(chosen) < len(rows) else None
