"""Find the rows that can be trained on; report each other row with the reason."""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import datasets

from ..files import write_text
from ..model.processing_conformer import ConformerProcessor
from .measuring import Measurement, measure, measure_together


@dataclass
class Finding:
    """Report a row that is skipped, or used in spite of a defect.

    Attributes:
        row: Number of the row in its split.
        detail: What was found in this row, such as its duration.
    """

    split: str
    row: int
    utterance_id: str
    reason: str
    detail: str = ""
    is_skipped: bool = True


@dataclass
class TokenIds(Sequence):
    """Store token ids of many transcripts in one int32 array: a list for each takes several times the memory."""

    ids: array = field(default_factory=partial(array, "i"))
    ends: array = field(default_factory=partial(array, "q"))

    def append(self, ids: Sequence[int]) -> None:
        """Add the token ids of a transcript."""
        self.ids.extend(ids)
        self.ends.append(len(self.ids))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> list[int]:
        place = range(len(self))[place]
        return self.ids[self.ends[place - 1] if place else 0 : self.ends[place]].tolist()


@dataclass
class Inspection:
    """Hold what `inspect` found.

    Attributes:
        kept: Numbers of the rows to use.
        durations: Seconds of each kept row, with the silence that it is padded with.
        labels: Token ids of each kept row, so that a transcript is tokenised once.
        findings: Rows that are skipped or have a defect.
    """

    rows: datasets.Dataset | Sequence[dict]
    split: str = ""

    kept: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    labels: TokenIds = field(default_factory=TokenIds)
    findings: list[Finding] = field(default_factory=list)

    @property
    def unusable_share(self) -> float:
        """Return the share of rows that are skipped, 0 to 1."""
        return 1 - len(self.kept) / max(1, len(self.rows))

    def leave_out(self, places: Set[int]) -> None:
        """Remove rows from those to use."""
        left = [i for i, place in enumerate(self.kept) if place not in places]
        labels = TokenIds()
        for i in left:
            labels.append(self.labels[i])
        self.kept, self.durations = ([values[i] for i in left] for values in (self.kept, self.durations))
        self.labels = labels

    def check(self, max_unusable_share: float) -> None:
        """Raise ValueError, with the reasons and an example of each, if a larger share of the rows is skipped."""
        if self.unusable_share > max_unusable_share:
            skipped = f"{len(self.rows) - len(self.kept)} of {len(self.rows)} rows"
            raise ValueError(
                f"{skipped} cannot be trained on ({self.unusable_share:.0%}, limit {max_unusable_share:.0%}): "
                f"{self._reasons()}. Correct them, or set max_unusable_share to 1 to train without them"
            )

    def check_any(self, purpose: str) -> None:
        """Raise ValueError, with the reasons, if no row is kept; `purpose` is "trained on" or "scored"."""
        if not self.kept:
            raise ValueError(
                f"{self.split}: none of its {len(self.rows)} rows can be {purpose}: {self._reasons() or 'it is empty'}"
            )

    def _reasons(self) -> str:
        """Return the reasons why rows are skipped, each with its first example."""
        examples = {}
        for finding in self.findings:
            if finding.is_skipped:
                examples.setdefault(finding.reason, f"{finding.utterance_id}: {finding.detail}")
        return "; ".join(f"{reason}, as {example}" for reason, example in examples.items())


def inspect(
    rows: datasets.Dataset | Sequence[dict],
    *,
    split: str,
    processor: ConformerProcessor,
    required_samples: Callable[[Sequence[int]], int],
    max_duration_seconds: float,
    decode: bool = True,
    show_progress: bool = True,
    is_shared: bool = False,
    first_row: int = 0,
    measured: Sequence[Measurement] | None = None,
) -> Inspection:
    """Return which rows can be trained on, with their durations and token ids.

    These rows are skipped: recordings that are unreadable, damaged or longer than `max_duration_seconds`, empty
    transcripts, and transcripts that need more than twice the frames of their audio. A smaller lack of frames is
    reported and padded with silence in training, but not in evaluation, where the transcript is unknown.

    Args:
        required_samples: Function of labels that returns the number of samples that CTC needs to align them.
        decode: Decode every recording. False uses a `duration` column or the header of each file: this takes seconds
            for a hundred thousand rows, but an undecodable recording is only found when it is trained on.
        is_shared: All processes that train together call this function with the same rows, and each decodes a share.
        first_row: Number in the split of the first row of `rows`.
        measured: Of each row, if the recordings were measured before.

    Raises:
        ValueError: With `is_shared`, the processes have different rows.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    min_seconds = getattr(processor.feature_extractor, "min_duration", 0.0)
    if measured is None:
        options = {"sampling_rate": sampling_rate, "decode": decode, "show_progress": show_progress}
        options["label"] = f"Inspecting {split}"
        measured = measure_together(rows, **options) if is_shared else measure(rows, **options)
    inspection = Inspection(rows, split)
    ids, texts = column_values(rows, "utterance_id"), column_values(rows, "text")

    def find(place: int, reason: str, detail: str, *, is_skipped: bool) -> None:
        inspection.findings.append(Finding(split, first_row + place, ids[place], reason, detail, is_skipped))

    for place, (labels, item) in enumerate(zip(token_ids(texts, processor), measured, strict=True)):
        for remark in item.remarks:
            find(place, "read with a remark", remark, is_skipped=False)
        seconds = max(item.seconds, min_seconds)
        needed = required_samples(labels) / sampling_rate if labels else 0.0
        if (defect := _defect(item, texts[place], labels, seconds, needed, max_duration_seconds)) is not None:
            find(place, *defect, is_skipped=True)
            continue
        if needed > seconds:
            detail = f"{seconds:.2f} s, {len(labels)} tokens need {needed:.2f} s"
            find(place, "shorter than CTC needs", detail, is_skipped=False)
        inspection.kept.append(place)
        inspection.durations.append(max(seconds, needed))
        inspection.labels.append(labels)
    return inspection


def _defect(
    item: Measurement, text: str, labels: Sequence[int], seconds: float, needed: float, max_seconds: float
) -> tuple[str, str] | None:
    """Return why a row cannot be trained on, as reason and detail; None if it can."""
    if item.problem is not None:
        return "unreadable audio", item.problem
    if not labels:
        return "empty transcript", repr(text)
    if item.seconds > max_seconds:
        return "too long", f"{item.seconds:.1f} s, limit {max_seconds} s (max_duration_seconds)"
    if needed > 2 * seconds + 0.1:
        return "transcript too long for its audio", f"{len(labels)} tokens in {seconds:.2f} s"
    return None


def column_values(rows: datasets.Dataset | Sequence[dict], name: str) -> list:
    """Return all values of a column, which is much faster than row by row."""
    return rows[name][:] if isinstance(rows, datasets.Dataset) else [row[name] for row in rows]


def token_ids(texts: list[str], processor: ConformerProcessor) -> Iterator[list[int]]:
    """Yield the token ids of each transcript.

    A thousand transcripts at a time are tokenised much faster than one by one; all at once would fill the memory.
    """
    for start in range(0, len(texts), 1000):
        yield from processor.tokenizer(texts[start : start + 1000])["input_ids"]


def write_findings(path: str | Path, findings: Sequence[Finding]) -> None:
    """Write one JSON object per line and finding."""
    write_text(path, _json_lines(findings))


def append_findings(path: str | Path, findings: Sequence[Finding]) -> None:
    """Append one JSON object per line and finding; half a surrogate pair becomes an escape, as in `write_text`.

    A finding that the file contains is left out, because a resumed stream reads some rows again.
    """
    with open(path, "a+", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.seek(0)
        known = set(file)
        lines = (line.encode(errors="backslashreplace").decode() for line in map(_json_line, findings))
        file.writelines(line for line in lines if line not in known)


def _json_lines(findings: Sequence[Finding]) -> str:
    return "".join(map(_json_line, findings))


def _json_line(finding: Finding) -> str:
    return json.dumps(asdict(finding), ensure_ascii=False) + "\n"
