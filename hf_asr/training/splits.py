"""Which rows are trained on and which are scored: held-out shares, excluded speakers, several sources, streams."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from ..data.folders import Rows
from ..data.rows import PART, chosen_by, with_column, written
from ..data.sources import ARRAY, load_source, split_names
from .arguments import DataArguments, Source

logger = logging.getLogger("hf_asr")

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")  # what the default's absence is tried with


@dataclass
class Splits:
    """Rows to train on (a stream with `--streaming`) and to score; `replayed` are old ones to score, if any."""

    train: Rows
    evaluation: datasets.Dataset
    replayed: datasets.Dataset | None = None


def load_splits(data_args: DataArguments, *, seed: int) -> Splits:
    """What the arguments name.

    Without an evaluation split, a seeded share is held out, by speaker if known. Of several sources, the column
    `source` says which one a row comes from.

    Raises:
        ValueError: A split or speaker that is not there, or a stream with nothing to score.
    """
    sources = data_args.sources()
    is_one_of_many = len(sources) > 1
    loaded = [
        _load_one(source, data_args, seed=seed, label=source.name if is_one_of_many else None) for source in sources
    ]
    evaluation = [rows for _, rows in loaded]
    shares = [source.weight for source in sources]
    train_rows = _mixed([copies for copies, _ in loaded], shares, seed=seed, streaming=data_args.streaming)
    eval_rows = evaluation[0] if len(evaluation) == 1 else datasets.concatenate_datasets(_alike(evaluation))
    splits = Splits(*_without_speakers(train_rows, eval_rows, data_args))
    if data_args.replay_dataset_name is not None:
        old = dataclasses.replace(sources[0], name=data_args.replay_dataset_name, config_name=None, weight=1)
        (old_rows,), splits.replayed = _load_one(old, data_args, seed=seed, label="replay")
        splits.train = _with_replay(splits.train, old_rows, data_args, seed=seed)
    return splits


def _with_replay(rows: Rows, old: Rows, data_args: DataArguments, *, seed: int) -> Rows:
    """`rows` and so many of `old`, drawn by the seed, that they are `replay_share` of the whole."""
    share = data_args.replay_share
    if data_args.streaming:
        return datasets.interleave_datasets(
            [rows, old], [1 - share, share], seed=seed, stopping_strategy="all_exhausted"
        )
    count = min(len(old), round(share / (1 - share) * len(rows)))
    logger.info(f"replayed: {count} of {len(old)} utterances of {data_args.replay_dataset_name}")
    drawn = old.select(np.random.default_rng(seed).permutation(len(old))[:count])
    return datasets.concatenate_datasets(_alike([rows, drawn]))


def _load_one(
    source: Source, data_args: DataArguments, *, seed: int, label: str | None
) -> tuple[list[Rows], datasets.Dataset]:
    """The rows to train on, as many times as their weight says, and those to score."""
    names = split_names(source.name, config_name=source.config_name, streaming=data_args.streaming)

    def load(split: str) -> Rows:
        rows = load_source(
            source.name,
            split=split,
            config_name=source.config_name,
            audio_column=source.audio_column_name,
            text_column=source.text_column_name,
            streaming=data_args.streaming,
        )
        return rows if label is None else _named(rows, label)

    train_rows = load(source.train_split_name)
    eval_name = source.eval_split_name
    if eval_name == "validation":  # nobody named it
        eval_name = next((name for name in VALIDATION_NAMES if name in names and name != source.train_split_name), None)
        if eval_name not in (None, "validation"):
            logger.info(f"{source.name}: scored on its split {eval_name!r}")
    if data_args.streaming:
        if eval_name is None:
            raise ValueError(
                f"{source.name} has no validation split (it has: {', '.join(names)}), and nothing can be held out of a "
                "stream: name a split with --eval_split_name"
            )
        return [train_rows], datasets.Dataset.from_list(list(load(eval_name)))
    # Before rows are chosen: a column cannot be given to chosen ones without copying their audio.
    copies = [train_rows, *(_copy(train_rows, number) for number in range(2, source.weight + 1))]
    if eval_name is not None:
        return copies, load(eval_name)
    is_held_out = _held_out(train_rows, data_args, seed=seed)
    return [rows.select(np.flatnonzero(~is_held_out)) for rows in copies], train_rows.select(
        np.flatnonzero(is_held_out)
    )


def _held_out(rows: datasets.Dataset, data_args: DataArguments, *, seed: int) -> np.ndarray:
    """Bool (rows,), True for those to score; all rows of a speaker or none. A speaker who is not known is one alone."""
    column = data_args.speaker_column_name
    speakers = rows[column][:] if column in rows.column_names else []
    by_speaker = len(set(speakers) - {None}) > 1
    groups = [str(speaker) if speaker is not None else place for place, speaker in enumerate(speakers)]
    groups = groups if by_speaker else list(range(len(rows)))
    distinct = sorted(set(groups), key=lambda group: (isinstance(group, int), group))
    count = max(1, round(data_args.held_out_share * len(distinct)))
    held_out = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    chosen = np.array([group in held_out for group in groups])
    by = f"{count} of {len(distinct)} speakers" if by_speaker else f"{count} utterances"
    logger.info(f"no split 'validation': held out {chosen.sum()} utterances ({by}), seed {seed}")
    return chosen


def _named(rows: Rows, source: str) -> Rows:
    """Of several sources, `source` says which, and is part of the id: two may both have a 00001.flac."""
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(lambda row: {"source": source, "utterance_id": f"{source}/{row['utterance_id']}"})
    rows = with_column(rows, "utterance_id", [f"{source}/{name}" for name in rows["utterance_id"]])
    return with_column(rows, "source", [source] * len(rows))


def _copy(rows: datasets.Dataset, number: int) -> datasets.Dataset:
    """The same rows with other ids, so that they are augmented differently."""
    return with_column(rows, "utterance_id", [f"{name}#{number}" for name in rows["utterance_id"]])


def _mixed(sources: list[list[Rows]], weights: Sequence[int], *, seed: int, streaming: bool) -> Rows:
    """All copies of all sources; of streams, drawn by their weights."""
    copies = [rows for copies in sources for rows in copies]
    if len(copies) == 1:
        return copies[0]
    if streaming:
        shares = [weight / sum(weights) for weight in weights]
        return datasets.interleave_datasets(copies, shares, seed=seed, stopping_strategy="all_exhausted")
    return datasets.concatenate_datasets(_alike(copies))


def _alike(parts: list[datasets.Dataset]) -> list[datasets.Dataset]:
    """Columns of one name and different types become strings: a speaker 7 and a speaker "theo".

    Columns that hold audio stay as they are, and nothing is copied.
    """
    types: dict[str, set[str]] = {}
    for part in parts:
        for name, feature in part.features.items():
            types.setdefault(name, set()).add(str(feature))
    unlike = {name for name, kinds in types.items() if len(kinds) > 1} - {"audio", PART, ARRAY}
    return [_with_strings(part, unlike & set(part.column_names)) for part in parts]


def _with_strings(rows: datasets.Dataset, names: set[str]) -> datasets.Dataset:
    """A view of chosen rows keeps to its choice: the columns are made for all the rows that it was chosen from."""
    if not names:
        return rows
    chosen = None if rows._indices is None else rows._indices.column(0).to_pylist()
    whole = (
        rows if chosen is None else datasets.Dataset(rows.data, info=rows.info.copy(), fingerprint=rows._fingerprint)
    )
    for name in sorted(names):
        values = [None if value is None else written(value) for value in whole[name]]
        whole = with_column(whole, name, values)
    return whole if chosen is None else whole.select(chosen)


def _without_speakers(
    train_rows: Rows, eval_rows: datasets.Dataset, data_args: DataArguments
) -> tuple[Rows, datasets.Dataset]:
    if not data_args.exclude_speakers:
        return train_rows, eval_rows
    column, excluded = data_args.speaker_column_name, set(data_args.exclude_speakers)
    if isinstance(train_rows, datasets.IterableDataset):
        train_rows = train_rows.filter(lambda row: str(row.get(column)) not in excluded)
    else:
        if column not in train_rows.column_names:
            raise ValueError(
                f"--exclude_speakers needs a column {column!r}; there are: {', '.join(train_rows.column_names)}"
            )
        speakers = {str(name) for name in train_rows[column] if name is not None}
        if unknown := excluded - speakers:
            raise ValueError(
                f"--exclude_speakers {' '.join(sorted(unknown))}: no such speaker; "
                f"there are: {', '.join(sorted(speakers)[:20])}"
            )
        train_rows = chosen_by(train_rows, column, lambda name: name not in excluded)
    if column in eval_rows.column_names:
        eval_rows = chosen_by(eval_rows, column, lambda name: name not in excluded)
    return train_rows, eval_rows


def first_transcripts(rows: Rows, *, limit: int = 50_000) -> list[str]:
    """Transcripts to learn a vocabulary from: all of a dataset, the first `limit` of a stream."""
    if isinstance(rows, datasets.IterableDataset):
        return [row["text"] for row in itertools.islice(rows, limit)]
    return rows["text"][:]
