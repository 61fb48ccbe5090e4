"""A row, whatever source it comes from: which part of a recording it means, and how rows become a table.

`audio_part` is the one column in which a source says that a row is less than its whole file. A column that somebody
calls `start`, `size` or `error` keeps its own meaning.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import datasets
import pyarrow as pa

PART = "audio_part"
ARRAY = "audio_array"  # {"array", "sampling_rate"}, of a source that holds decoded audio
PART_FEATURES = datasets.Features(
    {
        "start": datasets.Value("float64"),  # seconds, of an utterance inside a longer recording
        "end": datasets.Value("float64"),
        "channel": datasets.Value("int32"),  # the only one to use
        "offset": datasets.Value("int64"),  # bytes, of a file inside a tar shard
        "size": datasets.Value("int64"),
        "problem": datasets.Value("string"),  # why there is no recording
    }
)


class SourceError(ValueError):
    """A dataset, split or column that is not there or cannot be read; the message lists what is accepted."""


def part(**values: Any) -> dict[str, dict]:
    """Return the column that says which part of its file a row means, with the fields of `PART_FEATURES`."""
    return {PART: dict.fromkeys(PART_FEATURES) | values}


def without_own_names(entry: dict) -> dict:
    """Return somebody's columns without those that only a source may write."""
    return {name: value for name, value in entry.items() if name not in (PART, ARRAY)}


def unusable(utterance_id: str, problem: str, *, text: str = "") -> dict:
    """Return a row without a recording, which is named in the data report instead of being lost."""
    return {"audio": "", "text": text, "utterance_id": utterance_id} | part(problem=problem)


def rows_to_dataset(rows: Sequence[dict]) -> datasets.Dataset:
    """Return rows with different columns and types as one table: what a row lacks is null, mixed types become text."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns, features = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        values, features[name] = (values, PART_FEATURES) if name == PART else _typed(values)
        columns[name] = pa.array(values, datasets.Features(x=features[name]).type.field("x").type)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _typed(values: list) -> tuple[list, datasets.Value]:
    """Values with the one type that holds them all: whole numbers, seconds, truth values, or else text as written."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return values, datasets.Value("int64")
    if kinds == {bool}:
        return values, datasets.Value("bool")
    if kinds == {float}:
        return values, datasets.Value("float64")
    return [None if value is None else written(value) for value in values], datasets.Value("string")


def written(value: Any) -> str:
    """Return a value as JSON would write it, text as it is."""
    if isinstance(value, str | Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def without_repeats(names: Iterable[str], seen: Counter | None = None) -> list[str]:
    """Return the names, the second of two equal ones with `(2)` behind it.

    Args:
        seen: How often each name came before; it is counted on.
    """
    seen = Counter() if seen is None else seen
    unique = []
    for name in names:
        seen[name] += 1
        candidate = name
        while seen[name] > 1:
            candidate = f"{name} ({seen[name]})"
            if candidate not in seen:
                seen[candidate] += 1
                break
            seen[name] += 1
        unique.append(candidate)
    return unique


def with_column(
    rows: datasets.Dataset, name: str, values: Sequence | pa.Array | pa.ChunkedArray, *, feature: Any = None
) -> datasets.Dataset:
    """Return `rows` with a column that takes the place of one of the same name; the others are not copied.

    `Dataset.map` and `cast_column` would write all of them anew, the audio as well. Rows that were selected out of a
    larger dataset would be copied: give them their columns before.
    """
    before = f"{name} before"
    if name in rows.column_names:  # a table without a column would have no rows
        rows = rows.rename_column(name, before)
    feature = datasets.Value("string") if feature is None else feature
    is_column = isinstance(values, pa.Array | pa.ChunkedArray)
    column = values if is_column else pa.array(values, datasets.Features(x=feature).type.field("x").type)
    rows = rows.add_column(name, column, feature=feature)
    return rows.remove_columns(before) if before in rows.column_names else rows


def names_in(rows: datasets.Dataset, column: str) -> list[str | None]:
    """Return the values of a column as text, those of a ClassLabel by their names; None where it is not known."""
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in rows[column]]
    return [None if value is None else str(value) for value in rows[column]]


def chosen_by(rows: datasets.Dataset, column: str, is_wanted: Callable[[str | None], bool]) -> datasets.Dataset:
    """Return the rows whose value of `column`, as text, is wanted.

    `Dataset.filter` would write its choice into the folder of the data.
    """
    return rows.select([place for place, name in enumerate(names_in(rows, column)) if is_wanted(name)])


def join_path(root: str | os.PathLike | None, path: str) -> str:
    """Return a path relative to `root`; an absolute path, an address or an empty one as it is."""
    return path if root is None or not path or "://" in path else os.path.join(root, path)
