"""What can be trained on: every row is kept, or named with its reason."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets

from ..files import write_text
from ..model.processing_conformer import ConformerProcessor
from .measuring import measure, measure_together


@dataclass
class Finding:
    """A row (its number) that is skipped, or used with a remark, and why."""

    split: str
    row: int
    utterance_id: str
    reason: str
    detail: str = ""
    is_skipped: bool = True


@dataclass
class Inspection:
    """What inspecting `rows` of `split` found: `kept` are numbers of those to use, `durations` their seconds."""

    rows: datasets.Dataset | Sequence[dict]
    split: str = ""

    kept: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def unusable_share(self) -> float:
        """Rows that were skipped, over all."""
        return 1 - len(self.kept) / max(1, len(self.rows))

    def check(self, max_unusable_share: float) -> None:
        """Raises ValueError if more was skipped than `max_unusable_share`, with the reasons and first examples."""
        if self.unusable_share > max_unusable_share:
            skipped = f"{len(self.rows) - len(self.kept)} of {len(self.rows)} rows"
            raise ValueError(
                f"{skipped} cannot be trained on ({self.unusable_share:.0%}, limit {max_unusable_share:.0%}): "
                f"{self._reasons()}. Mend them, or go on without them: --max_unusable_share 1"
            )

    def check_any(self, purpose: str) -> None:
        """Raises ValueError if there is nothing to use, with the reasons; `purpose` is "trained on" or "scored"."""
        if not self.kept:
            raise ValueError(
                f"{self.split}: none of its {len(self.rows)} rows can be {purpose}: {self._reasons() or 'it is empty'}"
            )

    def _reasons(self) -> str:
        """Why rows were skipped, each reason with its first example."""
        examples = {}
        for finding in self.findings:
            if finding.is_skipped:
                examples.setdefault(finding.reason, f"{finding.utterance_id}: {finding.detail}")
        return "; ".join(f"{reason}, as {example}" for reason, example in examples.items())

    def summary(self) -> str:
        """One line: hours, and how many were skipped for which reason."""
        reasons = Counter(finding.reason for finding in self.findings)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "nothing skipped"
        return f"{len(self.kept)} utterances, {sum(self.durations) / 3600:.2f} h ({told})"


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
) -> Inspection:
    """Decide which rows can be trained on, and how long they are.

    Skipped are undecodable and damaged recordings, those longer than `max_duration_seconds`, empty transcripts, and
    transcripts that need more than twice the frames their audio has. Shorter lacks are padded with silence in training
    (not in evaluation, where nobody knows the transcript), and counted.

    Args:
        required_samples: Function of labels that counts the samples that CTC needs to align them.
        decode: Decode every recording. False believes a `duration` column, or the header of each file: a hundred
            thousand rows in seconds, and what cannot be decoded shows only when its turn comes.
        is_shared: All processes that train together call this with the same rows: each decodes a share of them.
        first_row: The number of the first of `rows` in its source.

    Raises:
        ValueError: With `is_shared`, the processes have different rows.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    shortest = getattr(processor.feature_extractor, "min_duration", 0.0)
    options = {"sampling_rate": sampling_rate, "decode": decode, "show_progress": show_progress}
    options["label"] = f"Inspecting {split}"
    measured = measure_together(rows, **options) if is_shared else measure(rows, **options)
    inspection = Inspection(rows, split)
    names, texts = column_values(rows, "utterance_id"), column_values(rows, "text")

    def find(reason: str, detail: str, *, is_skipped: bool = True) -> None:
        inspection.findings.append(Finding(split, first_row + place, names[place], reason, detail, is_skipped))

    for place, (labels, item) in enumerate(zip(token_ids(texts, processor), measured, strict=True)):
        for remark in item.remarks:
            find("read with a remark", remark, is_skipped=False)
        if item.problem is not None:
            find("unreadable audio", item.problem)
            continue
        if not labels:
            find("empty transcript", repr(texts[place]))
            continue
        if item.seconds > max_duration_seconds:
            find("too long", f"{item.seconds:.1f} s, limit {max_duration_seconds} s (--max_duration_seconds)")
            continue
        duration = max(item.seconds, shortest)
        needed = required_samples(labels) / sampling_rate
        if needed > 2 * duration + 0.1:
            find("transcript too long for its audio", f"{len(labels)} tokens in {duration:.2f} s")
            continue
        if needed > duration:
            detail = f"{duration:.2f} s, {len(labels)} tokens need {needed:.2f} s"
            find("shorter than CTC needs", detail, is_skipped=False)
        inspection.kept.append(place)
        inspection.durations.append(max(duration, needed))
    return inspection


def column_values(rows: datasets.Dataset | Sequence[dict], name: str) -> list:
    """A column at once, not row by row."""
    return rows[name][:] if isinstance(rows, datasets.Dataset) else [row[name] for row in rows]


def token_ids(texts: list[str], processor: ConformerProcessor) -> Iterator[list[int]]:
    """Yield the token ids of each transcript.

    A thousand at a time are tokenised much faster than one by one, and all at once would fill the memory.
    """
    for start in range(0, len(texts), 1000):
        yield from processor.tokenizer(texts[start : start + 1000])["input_ids"]


def write_findings(path: str | Path, findings: Sequence[Finding]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings))
