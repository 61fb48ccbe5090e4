"""Load the rows to train on and to score: held-out shares, excluded speakers, several sources, streams."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..data.folders import Rows
from ..data.rows import ARRAY, PART, names_in, with_column, without_repeats, written
from ..data.sources import Source
from ..data.spoken import Spoken
from .arguments import DataArguments

logger = logging.getLogger("hf_asr")

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")  # tried in this order if no split is named


@dataclass
class Splits:
    """Rows to train on and to score.

    Attributes:
        train: A stream with `streaming`.
        split: Name of the split that the scored rows come from; of several sources, each name: `"validation, train"`.
        selection: None if all rows of these splits are scored. Otherwise `held_out_share` with `by` (`"speaker"` or
            `"utterance"`) and `seed`, if a share of the training split is held out; and `excluded_speakers`, the number
            of excluded speakers that these splits contain.
        replayed: Old rows to score, with `replay_dataset_name`.
        spoken: Synthetic speech, with `warm_start`.
    """

    train: Rows
    evaluation: datasets.Dataset
    split: str
    selection: dict[str, Any] | None = None
    replayed: datasets.Dataset | None = None
    spoken: Spoken | None = None


@dataclass
class _Loaded:
    """Rows of one source.

    Attributes:
        copies: Rows to train on, as many times as the weight of the source.
        evaluation: Rows to score.
        split: Split that the scored rows come from.
        held_out_by: `"speaker"` or `"utterance"` if the scored rows are held out of the training split.
        excluded: Excluded speakers that `split` contains.
    """

    copies: list[Rows]
    evaluation: datasets.Dataset
    split: str
    held_out_by: str | None
    excluded: set[str]


def load_splits(data_args: DataArguments, *, seed: int) -> Splits:
    """Load the rows that the arguments name.

    If there is no evaluation split, a share drawn with `seed` is held out, by speaker if speakers are known. With
    several sources, the column `source` contains the name of the source of a row.

    Raises:
        ValueError: A split or speaker does not exist, or no row is left to train on or to score.
    """
    sources = data_args.sources()
    labels = _labels(sources) if len(sources) > 1 else [None]
    speakers: set[str] = set()
    loaded = [
        _load_one(source, data_args, seed=seed, label=label, speakers=speakers)
        for source, label in zip(sources, labels, strict=True)
    ]
    evaluation = [part.evaluation for part in loaded]
    shares = [source.weight for source in sources]
    train_rows = _mixed([part.copies for part in loaded], shares, seed=seed, streaming=data_args.streaming)
    eval_rows = evaluation[0] if len(evaluation) == 1 else datasets.concatenate_datasets(_alike(evaluation))
    selection = _selection(loaded, data_args, seed=seed)
    splits = Splits(train_rows, eval_rows, ", ".join(part.split for part in loaded), selection)
    if data_args.replay_dataset_name is not None:
        old = dataclasses.replace(sources[0], name=data_args.replay_dataset_name, config_name=None, weight=1)
        replayed = _load_one(old, data_args, seed=seed, label="replay", speakers=speakers)
        splits.replayed = replayed.evaluation
        splits.train = _with_replay(splits.train, replayed.copies[0], data_args, seed=seed)
    _check_splits(splits, data_args, sources=sources, speakers=speakers)
    return splits


def _check_splits(splits: Splits, data_args: DataArguments, *, sources: Sequence[Source], speakers: set[str]) -> None:
    """Raise ValueError for an unknown speaker, or if no row is left; of a stream, neither is known."""
    if data_args.streaming:
        return
    if unknown := set(data_args.exclude_speakers or ()) - speakers:
        known = f"speakers: {', '.join(sorted(speakers)[:20])}" if speakers else "no source has a column of that name"
        raise ValueError(
            f"exclude_speakers {' '.join(sorted(unknown))}: no such speaker in column "
            f"{data_args.speaker_column_name!r}; {known}"
        )
    for rows, purpose in ((splits.train, "train on"), (splits.evaluation, "score")):
        if not len(rows):
            raise ValueError(
                f"{', '.join(source.name for source in sources)}: no row is left to {purpose}: change held_out_share "
                f"({data_args.held_out_share:g}) or exclude_speakers, or add recordings"
            )


def _selection(loaded: Sequence[_Loaded], data_args: DataArguments, *, seed: int) -> dict[str, Any] | None:
    """Return `Splits.selection` of all sources together."""
    selection: dict[str, Any] = {}
    if ways := sorted({part.held_out_by for part in loaded if part.held_out_by is not None}):
        selection |= {"held_out_share": data_args.held_out_share, "by": ", ".join(ways), "seed": seed}
    if excluded := set().union(*(part.excluded for part in loaded)):
        selection["excluded_speakers"] = len(excluded)
    return selection or None


def _labels(sources: Sequence[Source]) -> list[str]:
    """Return a unique label for each source; parts of one dataset get the configuration or split added."""
    names = [source.name for source in sources]
    parts = [
        f"{source.name}/{source.config_name or source.train_split_name}"
        if names.count(source.name) > 1
        else source.name
        for source in sources
    ]
    return without_repeats(parts)


def _with_replay(rows: Rows, old: Rows, data_args: DataArguments, *, seed: int) -> Rows:
    """Return `rows` mixed with rows of `old`, drawn with the seed, so that these are `replay_share` of all rows."""
    share = data_args.replay_share
    if data_args.streaming:
        return datasets.interleave_datasets(
            [rows, old], [1 - share, share], seed=seed, stopping_strategy="all_exhausted"
        )
    count = min(len(old), round(share / (1 - share) * len(rows)))
    logger.info(f"replayed: {count} of {len(old)} utterances of {data_args.replay_dataset_name}")
    drawn = old.select(np.random.default_rng(seed).permutation(len(old))[:count])
    return datasets.concatenate_datasets(_alike([rows, drawn]))


def _load_one(source: Source, data_args: DataArguments, *, seed: int, label: str | None, speakers: set[str]) -> _Loaded:
    """Load a source without the excluded speakers; add the names of all its speakers to `speakers`."""
    train_rows = _load_split(source, source.train_split_name, streaming=data_args.streaming, label=label)
    eval_name = _eval_split_name(source, streaming=data_args.streaming)
    if data_args.streaming:
        return _stream_one(source, train_rows, data_args, eval_name=eval_name, label=label, speakers=speakers)
    # Copied before rows are selected: adding a column to selected rows would copy their audio.
    copies = [train_rows, *(_copy(train_rows, number) for number in range(2, source.weight + 1))]
    wanted, excluded = _wanted(train_rows, data_args, speakers)
    trained, held_out_by = np.flatnonzero(wanted), None
    if eval_name is not None:
        eval_rows = _load_split(source, eval_name, streaming=False, label=label)
        wanted, excluded = _wanted(eval_rows, data_args, speakers)
        scored = np.flatnonzero(wanted)
    else:
        eval_rows, eval_name = train_rows, source.train_split_name
        scored, trained, held_out_by = _hold_out(train_rows, trained, data_args, seed=seed)
    copies = [rows.select(trained) for rows in copies]
    return _Loaded(copies, eval_rows.select(scored), eval_name, held_out_by, excluded)


def _stream_one(
    source: Source,
    train_rows: datasets.IterableDataset,
    data_args: DataArguments,
    *,
    eval_name: str | None,
    label: str | None,
    speakers: set[str],
) -> _Loaded:
    """Return a stream to train on, and the rows to score, which are read at once."""
    if eval_name is None:
        names = ", ".join(source.split_names(streaming=True))
        raise ValueError(
            f"{source.name} has no validation split (it has: {names}), and nothing can be held out of a stream: choose "
            "a split with eval_split_name"
        )
    eval_rows = list(_load_split(source, eval_name, streaming=True, label=label))
    if not eval_rows:
        raise ValueError(f"{source.name}: its split {eval_name!r} has no rows")
    eval_rows = datasets.Dataset.from_list(eval_rows)
    wanted, excluded = _wanted(eval_rows, data_args, speakers)
    if not wanted.any():
        raise ValueError(f"{source.name}: exclude_speakers leaves nothing to score in its split {eval_name!r}")
    column, unwanted = data_args.speaker_column_name, set(data_args.exclude_speakers or ())
    if unwanted:
        train_rows = train_rows.filter(lambda row: str(row.get(column)) not in unwanted)
    return _Loaded([train_rows], eval_rows.select(np.flatnonzero(wanted)), eval_name, None, excluded)


def _load_split(source: Source, split: str, *, streaming: bool, label: str | None) -> Rows:
    """Load a split; with a label, name the source of each row."""
    rows = source.load(split, streaming=streaming)
    if not streaming and not len(rows):
        raise ValueError(f"{source.name}: its split {split!r} has no rows")
    return rows if label is None else _named(rows, label)


def _eval_split_name(source: Source, *, streaming: bool) -> str | None:
    """Return the split to score: the default may have another name, and is None if there is no such split."""
    if source.eval_split_name != "validation":
        return source.eval_split_name
    names = set(source.split_names(streaming=streaming)) - {source.train_split_name}
    found = next((name for name in VALIDATION_NAMES if name in names), None)
    if found not in (None, "validation"):
        logger.info(f"{source.name}: its split {found!r} is scored")
    return found


def _wanted(rows: datasets.Dataset, data_args: DataArguments, speakers: set[str]) -> tuple[np.ndarray, set[str]]:
    """Return a bool array (rows,), False for excluded speakers, and which of these the rows contain.

    The names of all speakers of the rows are added to `speakers`.
    """
    if data_args.speaker_column_name not in rows.column_names:
        return np.ones(len(rows), bool), set()
    names, excluded = names_in(rows, data_args.speaker_column_name), set(data_args.exclude_speakers or ())
    speakers |= set(names) - {None}
    return np.array([name not in excluded for name in names], bool), excluded & set(names)


def _hold_out(
    rows: datasets.Dataset, places: np.ndarray, data_args: DataArguments, *, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Split the row numbers `places` into those to score and those to train on.

    The third value is what was drawn: `"speaker"` or `"utterance"`. All utterances of a speaker are on the same side;
    utterances of unknown speakers are drawn one by one.
    """
    column = data_args.speaker_column_name
    names = names_in(rows, column) if column in rows.column_names else [None] * len(rows)
    by_speaker = len({names[place] for place in places} - {None}) > 1
    groups = [names[place] if by_speaker and names[place] is not None else int(place) for place in places]
    distinct = sorted(set(groups), key=lambda group: (isinstance(group, int), group))
    count = max(1, round(data_args.held_out_share * len(distinct)))
    chosen = {distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    is_held_out = np.array([group in chosen for group in groups], bool)
    by = f"{count} of {len(distinct)} speakers" if by_speaker else f"{count} utterances"
    logger.info(f"no validation split: {is_held_out.sum()} utterances are held out ({by}, seed {seed})")
    return places[is_held_out], places[~is_held_out], "speaker" if by_speaker else "utterance"


def _named(rows: Rows, source: str) -> Rows:
    """Add the column `source`, and the source to the ids, because two sources may both contain 00001.flac."""
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(lambda row: {"source": source, "utterance_id": f"{source}/{row['utterance_id']}"})
    rows = with_column(rows, "utterance_id", [f"{source}/{name}" for name in rows["utterance_id"]])
    return with_column(rows, "source", [source] * len(rows))


def _copy(rows: datasets.Dataset, number: int) -> datasets.Dataset:
    """Return the rows with other ids, so that they are augmented differently."""
    return with_column(rows, "utterance_id", [f"{name}#{number}" for name in rows["utterance_id"]])


def _mixed(sources: list[list[Rows]], weights: Sequence[int], *, seed: int, streaming: bool) -> Rows:
    """Concatenate all copies of all sources; draw from streams by their weights."""
    copies = [rows for copies in sources for rows in copies]
    if len(copies) == 1:
        return copies[0]
    if streaming:
        shares = [weight / sum(weights) for weight in weights]
        return datasets.interleave_datasets(copies, shares, seed=seed, stopping_strategy="all_exhausted")
    return datasets.concatenate_datasets(_alike(copies))


def _alike(parts: list[datasets.Dataset]) -> list[datasets.Dataset]:
    """Convert columns of one name and different types to strings, for example a speaker 7 and a speaker "theo".

    Columns that contain audio are neither converted nor copied.
    """
    types: dict[str, set[str]] = {}
    for part in parts:
        for name, feature in part.features.items():
            types.setdefault(name, set()).add(str(feature))
    unlike = {name for name, kinds in types.items() if len(kinds) > 1} - {"audio", PART, ARRAY}
    return [_with_strings(part, unlike & set(part.column_names)) for part in parts]


def _with_strings(rows: datasets.Dataset, names: set[str]) -> datasets.Dataset:
    """Convert the columns `names` to strings; of selected rows, in the table that they were selected from."""
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


def first_transcripts(rows: Rows, *, limit: int = 50_000) -> list[str]:
    """Return the transcripts to learn a vocabulary from: all of a dataset, the first `limit` of a stream."""
    if isinstance(rows, datasets.IterableDataset):
        return [row["text"] for row in itertools.islice(rows, limit)]
    return rows["text"][:]
