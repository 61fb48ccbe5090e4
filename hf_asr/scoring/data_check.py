"""Check a dataset before or after training: how it sounds, what its transcripts are, and which of them are implausible.

Every row gets a record with its measures, and a finding for each defect. Rows whose findings are in `LEFT_OUT` are
better not trained on; the others are for a person to judge.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..data.acoustics import Acoustics, listen
from ..data.duplicates import similar_recordings, similar_texts
from ..data.inspection import Finding, Inspection, inspect
from ..data.rows import names_in
from ..data.text_checks import MAX_DEVIATION, broken_encoding, left_digits, rate_deviations, wrong_scripts
from ..decoding.plausibility import implausible_limit, other_transcripts, score_transcripts, separation
from ..decoding.recognizer import Recognizer
from ..decoding.token_texts import unknown_characters
from ..families import required_samples
from ..model import ConformerProcessor
from .evaluation import predict_rows
from .metrics import count_errors

logger = logging.getLogger("hf_asr")

SILENT, COPY, OTHER_TEXT = "silent recording", "copy of a recording", "copy of a recording, other transcript"
SCRIPT, ENCODING, IMPLAUSIBLE = "wrong script", "broken encoding", "implausible transcript"
RATE, CLIPPED, PAUSE, NOISE = "low sampling rate", "clipped", "long silence", "noise"
SPEED, DIGITS, NEAR_TEXT = "unusual speaking rate", "digits left", "text almost equal to another one"
SPEAKER_LEAK, TEXT_LEAK, NEAR_LEAK = "speaker of another split", "text of another split", "text almost of another split"
UNSEEN, UNSPELLED = "characters not in the first split", "characters out of vocabulary"

LEFT_OUT = (SILENT, COPY, OTHER_TEXT, SCRIPT, ENCODING, IMPLAUSIBLE)
REASONS = (*LEFT_OUT, RATE, CLIPPED, PAUSE, NOISE, SPEED, DIGITS, NEAR_TEXT)
REASONS += (SPEAKER_LEAK, TEXT_LEAK, NEAR_LEAK, UNSEEN, UNSPELLED)

MAX_CLIPPED = 0.001  # share of samples
MAX_PAUSE = 2.0  # seconds of silence before or after the speech
MIN_SNR = 10.0  # dB
RECOGNIZED_SHARE, MIN_RECOGNIZED = 0.1, 50  # rows that are recognised: the most implausible ones

Details = Iterator[tuple[int, str, str]]  # number of the row, reason, detail


@dataclass
class CheckedSplit:
    """Hold what was found in a split.

    Attributes:
        inspection: Its findings are of all checks; it keeps the rows to train on.
        texts: The normalised transcripts.
        acoustics: None for a recording that cannot be read.
        copies: Number of rows with the same text.
        deviations: Of the speaking rates, see `rate_deviations`.
        scores: Of the transcripts, see `score_transcripts`; None without a model, and for a row that has none.
        limit: A score below it is implausible; None if the model cannot judge.
        other_scores: Of transcripts of other recordings.
        predictions: What the model reads, of the most implausible rows.
    """

    rows: datasets.Dataset
    inspection: Inspection
    texts: list[str]
    acoustics: list[Acoustics | None]
    copies: list[int]
    deviations: np.ndarray
    scores: list[float | None] = field(default_factory=list)
    limit: float | None = None
    other_scores: list[float] = field(default_factory=list)
    predictions: dict[int, str] = field(default_factory=dict)

    def add(self, details: Details, *, left_out: Set[str]) -> None:
        """Add findings, and leave out the rows of those with a reason of `left_out`."""
        ids, findings = self.rows["utterance_id"][:], self.inspection.findings
        for place, reason, detail in details:
            is_skipped = reason in left_out
            findings.append(Finding(self.inspection.split, place, ids[place], reason, detail, is_skipped))
        self.inspection.leave_out({finding.row for finding in findings if finding.is_skipped})

    def worst_first(self) -> list[int]:
        """Return the numbers of the rows: those that cannot be used, then by score, then by their findings."""
        skipped = {finding.row for finding in self.inspection.findings if finding.is_skipped}
        count = Counter(finding.row for finding in self.inspection.findings)
        if not self.scores:
            return sorted(range(len(self.rows)), key=lambda i: (i not in skipped, -count[i]))
        worst = [-np.inf if i in skipped else np.inf for i in range(len(self.rows))]
        return sorted(range(len(self.rows)), key=lambda i: worst[i] if self.scores[i] is None else self.scores[i])


def check_splits(
    splits: Mapping[str, datasets.Dataset],
    processor: ConformerProcessor,
    *,
    config: Any,
    recognizer: Recognizer | None = None,
    max_duration_seconds: float = 30.0,
    speaker_column: str = "speaker",
    left_out: Set[str] = frozenset(LEFT_OUT),
    show_progress: bool = True,
) -> dict[str, CheckedSplit]:
    """Return what is found in each split.

    Args:
        splits: The first one is the split to train on: leaks are findings in the others.
        config: Of the model, whose frames CTC needs.
        recognizer: Finds implausible transcripts; None leaves this out.
        left_out: Reasons of findings whose rows are better not trained on.
    """
    checked: dict[str, CheckedSplit] = {}
    options = {"max_duration_seconds": max_duration_seconds, "show_progress": show_progress}
    for name, rows in splits.items():
        found = _check_rows(name, rows, processor, config=config, **options)
        found.add(_acoustic_findings(found, processor.feature_extractor.sampling_rate), left_out=left_out)
        found.add(_text_findings(found, processor, has_model=recognizer is not None), left_out=left_out)
        if recognizer is not None:
            _judge(found, recognizer, show_progress=show_progress)
            found.add(_implausible(found), left_out=left_out)
        for other in checked.values():
            found.add(_leaks(found, other, speaker_column), left_out=left_out)
        if checked:
            found.add(_unseen(found, next(iter(checked.values()))), left_out=left_out)
        checked[name] = found
    return checked


def _check_rows(
    name: str,
    rows: datasets.Dataset,
    processor: ConformerProcessor,
    *,
    config: Any,
    max_duration_seconds: float,
    show_progress: bool,
) -> CheckedSplit:
    """Return what training itself finds in a split, and the measures of its rows."""
    rate = processor.feature_extractor.sampling_rate
    acoustics, measured = listen(rows, sampling_rate=rate, label=f"Listening to {name}", show_progress=show_progress)
    inspection = inspect(
        rows,
        split=name,
        processor=processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=max_duration_seconds,
        measured=measured,
    )
    texts = [processor.tokenizer.normalize(text) for text in rows["text"]]
    seconds = [each.spoken_seconds if each else 0.0 for each in acoustics]
    counts = Counter(texts)
    return CheckedSplit(
        rows,
        inspection,
        texts,
        acoustics,
        [counts[text] for text in texts],
        rate_deviations([text if second else "" for text, second in zip(texts, seconds, strict=True)], seconds),
    )


def _acoustic_findings(found: CheckedSplit, sampling_rate: int) -> Details:
    for place, each in enumerate(found.acoustics):
        if each is None:
            continue
        if each.is_silent:
            yield place, SILENT, f"{each.level:.0f} dB of full scale"
            continue
        if 0 < each.file_rate < sampling_rate:
            yield place, RATE, f"{each.file_rate} Hz"
        if each.clipped > MAX_CLIPPED:
            yield place, CLIPPED, f"{each.clipped:.1%} of the samples are at full scale"
        if max(each.start, each.seconds - each.end) > MAX_PAUSE:
            yield place, PAUSE, f"{each.start:.1f} s before the speech, {each.seconds - each.end:.1f} s after it"
        if each.snr < MIN_SNR:
            yield place, NOISE, f"speech is {each.snr:.0f} dB above the quietest frames"
        if abs(deviation := found.deviations[place]) > MAX_DEVIATION:
            rate = len(found.texts[place].replace(" ", "")) / each.spoken_seconds
            yield place, SPEED, f"{rate:.1f} characters per second, {deviation:+.1f} standard deviations"
    prints = [each and each.fingerprint for each in found.acoustics]
    seconds = [each.fingerprint_seconds if each else 0.0 for each in found.acoustics]
    ids = found.rows["utterance_id"][:]
    for place, earlier in similar_recordings(prints, seconds).items():
        is_same = found.texts[place] == found.texts[earlier]
        yield place, COPY if is_same else OTHER_TEXT, f"of {ids[earlier]}"
        if not is_same:
            yield earlier, OTHER_TEXT, f"of {ids[place]}"


def _text_findings(found: CheckedSplit, processor: ConformerProcessor, *, has_model: bool) -> Details:
    written = found.rows["text"][:]
    for place, script in wrong_scripts(written).items():
        yield place, SCRIPT, f"{script}: {written[place][:200]}"
    for place, text in enumerate(written):
        if (meant := broken_encoding(text)) is not None:
            yield place, ENCODING, f"{text[:100]} (perhaps {meant[:100]})"
        if digits := left_digits(found.texts[place]):
            yield place, DIGITS, digits
    if has_model:
        for place, text in enumerate(found.texts):
            if unknown := set(unknown_characters(text, processor.tokenizer)) - {" "}:
                yield place, UNSPELLED, " ".join(sorted(unknown))
    first = {text: place for place, text in reversed(list(enumerate(found.texts)))}
    places, ids = list(first.values()), found.rows["utterance_id"][:]
    for i, j in similar_texts(list(first)).items():
        yield places[i], NEAR_TEXT, f"{ids[places[j]]}: {written[places[j]][:200]}"


def _with_any(found: CheckedSplit, characters: Set[str], reason: str) -> Details:
    for place, text in enumerate(found.texts):
        if contained := characters.intersection(text):
            yield place, reason, " ".join(sorted(contained))


def _leaks(found: CheckedSplit, other: CheckedSplit, speaker_column: str) -> Details:
    """Yield the rows of a split whose speaker or text is in another split, too."""
    name, ids = other.inspection.split, other.rows["utterance_id"][:]
    if all(speaker_column in rows.column_names for rows in (found.rows, other.rows)):
        speakers = set(names_in(other.rows, speaker_column)) - {None}
        for place, speaker in enumerate(names_in(found.rows, speaker_column)):
            if speaker in speakers:
                yield place, SPEAKER_LEAK, f"{speaker} is in {name}"
    there = {text: place for place, text in enumerate(other.texts)}
    for place, text in enumerate(found.texts):
        if text and text in there:
            yield place, TEXT_LEAK, f"{text[:200]} ({ids[there[text]]} of {name})"
    texts = [*there, *(set(found.texts) - set(there))]
    near = {texts[i]: texts[j] for i, j in similar_texts(texts).items() if j < len(there) <= i}
    for place, text in enumerate(found.texts):
        if text in near:
            yield place, NEAR_LEAK, f"{near[text][:200]} ({ids[there[near[text]]]} of {name})"


def _judge(found: CheckedSplit, recognizer: Recognizer, *, show_progress: bool) -> None:
    """Score the transcripts of a split, and recognise the most implausible rows."""
    texts, rows = found.rows["text"][:], found.rows
    items = [*enumerate(texts), *other_transcripts(texts)]
    scored = score_transcripts(recognizer, rows, items)
    label = f"Aligning {found.inspection.split}"
    progress = tqdm(scored, total=len(items), desc=label, unit="file", disable=not show_progress)
    scores = [None if isinstance(score, str) else score for score in progress]
    found.scores = scores[: len(rows)]
    found.other_scores = [score for score in scores[len(rows) :] if score is not None]
    known = [score for score in found.scores if score is not None]
    found.limit = implausible_limit(known, found.other_scores)
    if found.limit is None:
        logger.warning(
            f"{found.inspection.split}: the model gives transcripts of other recordings similar scores, so none is "
            "called implausible: take a model with a lower error rate on these recordings"
        )
    worst = [i for i in found.worst_first() if found.acoustics[i] is not None]
    chosen = worst[: max(MIN_RECOGNIZED, round(RECOGNIZED_SHARE * len(rows)))]
    records, _ = predict_rows(recognizer, rows.select(chosen), show_progress=show_progress)
    found.predictions = {i: record["prediction"] for i, record in zip(chosen, records, strict=True)}


def _implausible(found: CheckedSplit) -> Details:
    for place in found.worst_first():
        score = found.scores[place]
        if score is not None and found.limit is not None and score < found.limit:
            yield place, IMPLAUSIBLE, f"score {score:.2f}, limit {found.limit:.2f}: {found.texts[place][:200]}"


def _unseen(found: CheckedSplit, first: CheckedSplit) -> Details:
    """Yield the rows with characters that the first split does not have."""
    yield from _with_any(found, set().union(*found.texts) - set().union(*first.texts) - {" "}, UNSEEN)


def to_records(found: CheckedSplit) -> list[dict[str, Any]]:
    """Return a record with the measures and findings of each row, the worst one first."""
    reasons = defaultdict(dict)
    for finding in found.inspection.findings:
        reasons[finding.row][finding.reason] = finding.detail
    kept, ids, texts = set(found.inspection.kept), found.rows["utterance_id"][:], found.rows["text"][:]
    records = []
    for place in found.worst_first():
        record = {"utterance_id": ids[place], "split": found.inspection.split, "row": place, "text": texts[place]}
        if found.scores:
            record["score"] = found.scores[place]
        if (prediction := found.predictions.get(place)) is not None:
            counts = count_errors([found.texts[place]], [prediction], unit="character")[0]
            record |= {"prediction": prediction, "cer": float(counts[:3].sum() / max(1, counts[3]))}
        if (each := found.acoustics[place]) is not None:
            record |= {"file_rate": each.file_rate, "duration": round(each.seconds, 3), "level": round(each.level, 1)}
            record |= {"snr": round(each.snr, 1), "clipped": round(each.clipped, 5), "silent": round(each.silent, 3)}
            record["rate_deviation"] = round(float(found.deviations[place]), 2)
        record |= {"same_text": found.copies[place], "is_kept": place in kept, "findings": reasons[place]}
        records.append(record)
    return records


def summarize(checked: Mapping[str, CheckedSplit]) -> dict[str, Any]:
    """Return the numbers of rows and findings of each split, and what the model finds plausible."""
    summary: dict[str, Any] = {}
    for name, found in checked.items():
        findings = Counter(reason for reason, _ in {(each.reason, each.row) for each in found.inspection.findings})
        summary[name] = {"rows": len(found.rows), "kept": len(found.inspection.kept), "findings": dict(findings)}
        if known := [score for score in found.scores if score is not None]:
            others = found.other_scores
            summary[name] |= {"score_median": float(np.median(known)), "score_limit": found.limit}
            if others:
                summary[name] |= {
                    "other_score_median": float(np.median(others)),
                    "separation": separation(known, others),
                }
    return summary
