"""Describe the data before training: a table in the log, and a page with charts and players."""

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from markupsafe import Markup
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ..files import DATA_REPORT
from ..html import audio_uri, histogram, write_page
from ..model.spelling_conformer import HAN
from ..model.tokenization_conformer import SPELLS_NUMBERS, VIRAMAS
from .audio import AudioError
from .inspection import Inspection, column_values
from .sources import read_row

logger = logging.getLogger("hf_asr")

# A joiner or a geresh that turns the preceding letter into another letter
_OF_LETTERS = re.compile(rf"(?<=[^\W\d_][{VIRAMAS}])\u200d|(?<=[\u0591-\u05f2])\u05f3")


@dataclass
class _Example:
    """Show a row with a player."""

    utterance_id: str
    text: str
    note: str
    audio: str  # a data URI; empty if the recording cannot be decoded


@dataclass
class Doubtful:
    """Show a row whose transcript is doubtful, with a player.

    Attributes:
        note: Why.
        alignment: The transcript and what a model reads, as `scoring.metrics.align` returns them.
    """

    utterance_id: str
    note: str
    audio: str
    alignment: list[tuple[str, str, str]]


@dataclass
class _Split:
    """Collect what the page shows about a split."""

    name: str
    facts: list[tuple[str, str]]
    skipped: list[tuple[str, int, list[_Example]]] = field(default_factory=list)
    charts: list[Markup] = field(default_factory=list)
    examples: list[tuple[str, list[_Example]]] = field(default_factory=list)


def report_data(
    inspections: dict[str, Inspection],
    *,
    processor: ProcessorMixin,
    path: str | Path,
    speaker_column: str = "speaker",
    more_facts: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
    more_charts: Mapping[str, Sequence[Markup]] = MappingProxyType({}),
    worst: Sequence[Doubtful] = (),
    table: str = DATA_REPORT,
) -> None:
    """Log one table of all splits and write data_report.html.

    Args:
        inspections: One inspection for each purpose ("training", "evaluation"), training first.
        speaker_column: Column with the speaker, if there is one.
        more_facts: More rows of the table, as label and value, by the name of the inspection.
        more_charts: More charts, by the name of the inspection.
        worst: Rows to show first.
        table: Name of the file with all findings, of which the page shows the first ones.
    """
    texts = {name: _texts(inspection, processor) for name, inspection in inspections.items()}
    trained_on = set(next(iter(texts.values())))
    splits = []
    for name, inspection in inspections.items():
        split = _Split(name, _facts(inspection, texts[name], processor, speaker_column))
        if splits:
            unseen = sum(text not in trained_on for text in texts[name])
            split.facts.append(("sentences not in training", f"{unseen} of {len(texts[name])}"))
        split.facts += more_facts.get(name, ())
        if inspection.kept:
            _illustrate(split, inspection, texts[name])
        split.charts += more_charts.get(name, ())
        _account(split, inspection)
        splits.append(split)
    logger.info("\n".join(_table(splits)))
    values = {"splits": splits, "worst": worst, "table": table, "folder": str(Path(path).parent)}
    write_page(path, "data_report.html", **values)


def _texts(inspection: Inspection, processor: ProcessorMixin) -> list[str]:
    """Return the normalised transcripts of the rows that are kept."""
    texts = column_values(inspection.rows, "text")
    return [processor.tokenizer.normalize(texts[i]) for i in inspection.kept]


def _facts(
    inspection: Inspection, texts: list[str], processor: ProcessorMixin, speaker_column: str
) -> list[tuple[str, str]]:
    """Return the rows of the table of a split, as label and value."""
    seconds = np.array(inspection.durations or [0.0])
    facts = [
        ("utterances used", f"{len(inspection.kept)} of {len(inspection.rows)}"),
        ("hours", f"{seconds.sum() / 3600:.2f}"),
        ("seconds, minimum/median/maximum", f"{seconds.min():.1f} / {np.median(seconds):.1f} / {seconds.max():.1f}"),
    ]
    if inspection.kept and speaker_column in inspection.rows[inspection.kept[0]]:
        speakers = column_values(inspection.rows, speaker_column)
        facts.insert(0, ("speakers", str(len({speakers[i] for i in inspection.kept} - {None}))))
    return facts + _token_facts(inspection, processor) + _normalization_facts(inspection, texts, processor)


def _token_facts(inspection: Inspection, processor: ProcessorMixin) -> list[tuple[str, str]]:
    tokens = Counter(inspection.labels.ids)
    unknown, total = tokens[processor.tokenizer.unk_token_id], tokens.total()
    return [
        ("vocabulary", f"{len(processor.tokenizer)} tokens"),
        ("tokens", f"{total} ({len(+tokens)} different)"),
        ("unknown tokens", f"{unknown} ({unknown / max(1, total):.2%})"),
    ]


def _normalization_facts(inspection: Inspection, texts: list[str], processor: ProcessorMixin) -> list[tuple[str, str]]:
    """Return what the normalisation rule did to the transcripts; log a warning if it changed letters."""
    rule = processor.tokenizer.init_kwargs.get("text_normalization")
    written = column_values(inspection.rows, "text")
    changed = changed_letters(processor.tokenizer, [written[i] for i in inspection.kept])
    if changed:
        logger.warning(
            f"text_normalization {rule} changes {changed.total()} letters of these transcripts ({_commonest(changed)}) "
            "and of the references of every score: choose basic to keep them"
        )
    facts = [
        ("normalisation", str(rule)),
        ("letters it changes", f"{changed.total()} ({_commonest(changed)})" if changed else "0"),
    ]
    numbers = Counter(word for text in texts for word in text.split() if re.search(r"\d", word))
    if numbers and rule in SPELLS_NUMBERS:
        facts.append(("numbers left as written", f"{numbers.total()} ({_commonest(numbers)})"))
    return facts


def changed_letters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Counter[str]:
    """Count the letters, with their marks, that normalisation replaces or removes: `{"ä → a": 12}`.

    Differences of case and of Unicode compatibility (ﬁ, full width) do not count.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        if not text.isascii():
            counts.update(re.findall(r"[^\W\d_][^\w\s\x00-\x7f]*", unicodedata.normalize("NFC", text)))

    def folded(letters: str) -> str:
        return unicodedata.normalize("NFKC", letters.casefold()).replace("i\u0307", "i")

    changed: Counter[str] = Counter()
    for letters, count in counts.items():
        letters = "".join(
            character
            for place, character in enumerate(letters)
            if unicodedata.category(character)[0] in "LM" or _OF_LETTERS.match(letters, place)
        )
        letters = re.sub("[\u034f\u17b4\u17b5\ufe00-\ufe0f\U000e0100-\U000e01ef]", "", letters)  # invisible marks
        if letters.isascii() or HAN.match(letters):
            continue
        if folded(result := tokenizer.normalize(letters)) != folded(letters):
            changed[f"{letters} → {result or 'nothing'}"] += count
    return changed


def _commonest(counts: Counter[str]) -> str:
    return ", ".join(name for name, _ in counts.most_common(5)) + (" …" if len(counts) > 5 else "")


def _illustrate(split: _Split, inspection: Inspection, texts: list[str]) -> None:
    """Add histograms, and the longest, shortest and most unusual utterances with players."""
    seconds = np.array(inspection.durations)
    rates = np.array([len(text) for text in texts]) / seconds
    split.charts = [
        histogram(seconds, label="seconds"),
        histogram(rates, label="characters per second"),
        histogram([len(text) for text in texts], label="characters"),
    ]
    by_length = np.argsort(seconds, kind="stable")
    # A transcript far too long or too short for its recording often belongs to another recording.
    deviation = np.abs(np.log(np.maximum(rates, 1e-3) / np.median(rates)))

    def examples(places: np.ndarray) -> list[_Example]:
        return [
            _example(inspection.rows[inspection.kept[i]], f"{seconds[i]:.2f} s, {rates[i]:.1f} characters per second")
            for i in places
        ]

    split.examples = [
        ("Longest", examples(by_length[::-1][:5])),
        ("Shortest", examples(by_length[:5])),
        ("Most unusual: most or fewest characters per second", examples(np.argsort(-deviation, kind="stable")[:10])),
    ]


def _account(split: _Split, inspection: Inspection) -> None:
    """Add the findings by reason, each with its first fifty rows; the first three have players."""
    by_reason = defaultdict(list)
    for finding in inspection.findings:
        by_reason[finding.reason].append(finding)
    for reason, findings in by_reason.items():
        examples = [
            _example(inspection.rows[finding.row], finding.detail, with_audio=place < 3)
            for place, finding in enumerate(findings[:50])
        ]
        split.skipped.append((reason, len(findings), examples))


def _table(splits: list[_Split]) -> list[str]:
    """Return the lines of the table in the log."""
    width = max(len(label) for split in splits for label, _ in split.facts)
    lines = [" " * width + "".join(f"  {split.name:>22}" for split in splits)]
    for label in dict.fromkeys(label for split in splits for label, _ in split.facts):
        lines.append(f"{label:<{width}}" + "".join(f"  {dict(split.facts).get(label, ''):>22}" for split in splits))
    for split in splits:
        for reason, count, examples in split.skipped:
            named = "; ".join(f"{example.utterance_id} ({example.note})" for example in examples[:3])
            lines.append(f"{split.name}: {count} {reason}: {named}{' …' if count > 3 else ''}")
    return lines


def _example(row: dict, note: str, *, with_audio: bool = True) -> _Example:
    return _Example(row["utterance_id"], row["text"], note, row_audio_uri(row) if with_audio else "")


def row_audio_uri(row: dict, *, sampling_rate: int = 16000) -> str:
    """Return the recording of a row as a data URI for an <audio> element; empty if it cannot be read."""
    try:
        return audio_uri(read_row(row, sampling_rate=sampling_rate))
    except AudioError:
        return ""
