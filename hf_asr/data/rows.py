"""Build rows and turn them into a table, whatever source they come from.

Only the column `audio_part` selects a part of a recording. Columns of the source that are called `start`, `size` or
`error` have no special meaning.
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
ARRAY = "audio_array"  # {"array", "sampling_rate"}, if the source contains decoded audio
PART_FEATURES = datasets.Features(
    {
        "start": datasets.Value("float64"),  # seconds, if the utterance is part of a longer recording
        "end": datasets.Value("float64"),
        "channel": datasets.Value("int32"),  # the only channel to use, from 0
        "offset": datasets.Value("int64"),  # bytes, if the file is inside a tar shard
        "size": datasets.Value("int64"),
        "problem": datasets.Value("string"),  # why the row has no recording
    }
)


class SourceError(ValueError):
    """Report a dataset, split or column that does not exist or cannot be read; the message lists what is accepted."""


def part(**values: Any) -> dict[str, dict]:
    """Return the column `audio_part` with these fields of `PART_FEATURES`."""
    return {PART: dict.fromkeys(PART_FEATURES) | values}


def without_own_names(entry: dict) -> dict:
    """Return the columns of a manifest's row without those names that only this package may use."""
    return {name: value for name, value in entry.items() if name not in (PART, ARRAY)}


def unusable(utterance_id: str, problem: str, *, text: str = "") -> dict:
    """Return a row without a recording, so that the data report names it."""
    return {"audio": "", "text": text, "utterance_id": utterance_id} | part(problem=problem)


def rows_to_dataset(rows: Sequence[dict]) -> datasets.Dataset:
    """Return rows as one table: missing columns are null, and a column of mixed types becomes text."""
    try:
        return _to_dataset(rows)
    except UnicodeEncodeError:
        return _to_dataset([encodable(row) for row in rows])


def _to_dataset(rows: Sequence[dict]) -> datasets.Dataset:
    names = dict.fromkeys(name for row in rows for name in row)
    columns, features = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        values, features[name] = (values, PART_FEATURES) if name == PART else _typed(values)
        columns[name] = pa.array(values, datasets.Features(x=features[name]).type.field("x").type)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _typed(values: list) -> tuple[list, datasets.Value]:
    """Return the values with the one type that fits them all: int, float, bool, or else text as written."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return values, datasets.Value("int64")
    if kinds == {bool}:
        return values, datasets.Value("bool")
    if kinds == {float}:
        return values, datasets.Value("float64")
    return [None if value is None else written(value) for value in values], datasets.Value("string")


def encodable(row: dict) -> dict:
    """Return a row that UTF-8 can encode; a file name that is not UTF-8 becomes a problem of the row."""
    result = escaped(row)
    if result.get("audio") != row.get("audio"):
        result |= {"audio": ""} | part(problem="its file name is not UTF-8: rename the file")
    return result


def escaped(value: Any) -> Any:
    """Return `value` with half surrogate pairs, which file names that are not UTF-8 contain, as escapes (`\\udce9`)."""
    if isinstance(value, dict):
        return {escaped(name): escaped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return list(map(escaped, value))
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def is_encodable(text: str) -> bool:
    """Return whether UTF-8 can encode a text: it has no half of a surrogate pair."""
    return text.isascii() or escaped(text) == text


def written(value: Any) -> str:
    """Return a value as JSON would write it; text stays unchanged."""
    if isinstance(value, str | Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def without_repeats(names: Iterable[str], seen: Counter | None = None) -> list[str]:
    """Return unique names: the second of two equal names ends in ` (2)`.

    Args:
        seen: How often each name occurred before; the count is continued.
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
    """Return `rows` with a column added or replaced; the other columns are not copied.

    `Dataset.map` and `cast_column` would write all columns again, including the audio. If `rows` were selected from a
    larger dataset, this function copies them: add columns before selecting.
    """
    before = f"{name} before"
    if name in rows.column_names:  # a table without any column would lose its rows
        rows = rows.rename_column(name, before)
    feature = datasets.Value("string") if feature is None else feature
    is_column = isinstance(values, pa.Array | pa.ChunkedArray)
    column = values if is_column else pa.array(values, datasets.Features(x=feature).type.field("x").type)
    rows = rows.add_column(name, column, feature=feature)
    return rows.remove_columns(before) if before in rows.column_names else rows


def names_in(rows: datasets.Dataset, column: str) -> list[str | None]:
    """Return the values of a column as text, and a ClassLabel by its names; None for a missing value."""
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in rows[column]]
    return [None if value is None else str(value) for value in rows[column]]


def chosen_by(rows: datasets.Dataset, column: str, is_wanted: Callable[[str | None], bool]) -> datasets.Dataset:
    """Return the rows for whose value of `column`, as text, `is_wanted` is true.

    `Dataset.filter` would write its result into the folder of the data.
    """
    return rows.select([place for place, name in enumerate(names_in(rows, column)) if is_wanted(name)])


def join_path(root: str | os.PathLike | None, path: str) -> str:
    """Return `path`, relative to `root` unless it is absolute, an address or empty."""
    return path if root is None or not path or "://" in path else os.path.join(root, path)
