"""Which rows are trained on and which are scored: held-out shares, excluded speakers, several sources, streams."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from ..data.sources import Rows, load_source, split_names
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
    loaded = [_load_one(source, data_args, seed=seed) for source in sources]
    train, evaluation = [rows for rows, _ in loaded], [rows for _, rows in loaded]
    if len(sources) > 1:
        names = [source.name for source in sources]
        evaluation = [_named(rows, name) for rows, name in zip(evaluation, names, strict=True)]
        train = [_named(rows, name) for rows, name in zip(train, names, strict=True)]
    train_rows = _mixed(train, [source.weight for source in sources], seed=seed, streaming=data_args.streaming)
    eval_rows = evaluation[0] if len(evaluation) == 1 else datasets.concatenate_datasets(_alike(evaluation))
    splits = Splits(*_without_speakers(train_rows, eval_rows, data_args))
    if data_args.replay_dataset_name is not None:
        old = dataclasses.replace(sources[0], name=data_args.replay_dataset_name, config_name=None)
        old_rows, splits.replayed = _load_one(old, data_args, seed=seed)
        splits.train = _with_replay(splits.train, _named(old_rows, "replay"), data_args, seed=seed)
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


def _load_one(source: Source, data_args: DataArguments, *, seed: int) -> tuple[Rows, datasets.Dataset]:
    names = split_names(source.name, config_name=source.config_name)

    def load(split: str, streaming: bool = False) -> Rows:
        return load_source(
            source.name,
            split=split,
            config_name=source.config_name,
            audio_column=source.audio_column_name,
            text_column=source.text_column_name,
            streaming=streaming,
        )

    train_rows = load(source.train_split_name, data_args.streaming)
    eval_name = source.eval_split_name
    if eval_name == "validation":  # nobody named it
        eval_name = next((name for name in VALIDATION_NAMES if name in names and name != source.train_split_name), None)
        if eval_name not in (None, "validation"):
            logger.info(f"{source.name}: scored on its split {eval_name!r}")
    if eval_name is not None:
        eval_rows = load(eval_name, data_args.streaming)
        if data_args.streaming:
            eval_rows = datasets.Dataset.from_list(list(eval_rows))
        return train_rows, eval_rows
    if data_args.streaming:
        raise ValueError(
            f"{source.name} has no validation split (it has: {', '.join(names)}), and nothing can be held out of a "
            "stream: name a split with --eval_split_name"
        )
    return _hold_out(train_rows, data_args, seed=seed)


def _hold_out(
    rows: datasets.Dataset, data_args: DataArguments, *, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    speaker_column = data_args.speaker_column_name
    by_speaker = speaker_column in rows.column_names and len(set(rows[speaker_column])) > 1
    groups = rows[speaker_column] if by_speaker else list(range(len(rows)))
    distinct = sorted(set(groups))
    count = max(1, round(data_args.held_out_share * len(distinct)))
    held_out = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    chosen = np.array([group in held_out for group in groups])
    by = f"{count} of {len(distinct)} speakers" if by_speaker else f"{count} utterances"
    logger.info(f"no split 'validation': held out {chosen.sum()} utterances ({by}), seed {seed}")
    return rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))


def _named(rows: Rows, source: str) -> Rows:
    """Of several sources, `source` says which, and is part of the id: two may both have a 00001.flac."""

    def name(row: dict) -> dict:
        return {"source": source, "utterance_id": f"{source}/{row['utterance_id']}"}

    return rows.map(name)


def _mixed(sources: list[Rows], weights: Sequence[int], *, seed: int, streaming: bool) -> Rows:
    """Rows of `weight` copies of each source, told apart by their ids; of streams, drawn by their weights."""
    if len(sources) == 1 and weights[0] == 1:
        return sources[0]
    if streaming:
        shares = [weight / sum(weights) for weight in weights]
        return datasets.interleave_datasets(sources, shares, seed=seed, stopping_strategy="all_exhausted")
    copies = []
    for rows, weight in zip(sources, weights, strict=True):
        copies.append(rows)
        for number in range(2, weight + 1):
            ids = [f"{name}#{number}" for name in rows["utterance_id"]]  # augmented differently
            copies.append(rows.remove_columns("utterance_id").add_column("utterance_id", ids))
    return datasets.concatenate_datasets(_alike(copies))


def _alike(parts: list[datasets.Dataset]) -> list[datasets.Dataset]:
    """Columns of one name and different types become strings: a speaker 7 and a speaker "theo"."""
    types: dict[str, set[str]] = {}
    for part in parts:
        for name, feature in part.features.items():
            types.setdefault(name, set()).add(str(feature))
    for name in (name for name, kinds in types.items() if len(kinds) > 1):
        string = datasets.Value("string")
        parts = [part.cast_column(name, string) if name in part.column_names else part for part in parts]
    return parts


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
        speakers = set(map(str, train_rows[column]))
        if unknown := excluded - speakers:
            raise ValueError(
                f"--exclude_speakers {' '.join(sorted(unknown))}: no such speaker; "
                f"there are: {', '.join(sorted(speakers)[:20])}"
            )
        train_rows = train_rows.filter(lambda name: str(name) not in excluded, input_columns=column)
    if column in eval_rows.column_names:
        eval_rows = eval_rows.filter(lambda name: str(name) not in excluded, input_columns=column)
    return train_rows, eval_rows


def first_transcripts(rows: Rows, *, limit: int = 50_000) -> list[str]:
    """Transcripts to learn a vocabulary from: all of a dataset, the first `limit` of a stream."""
    if isinstance(rows, datasets.IterableDataset):
        return [row["text"] for row in itertools.islice(rows, limit)]
    return rows["text"][:]
