"""Train n-gram language models on texts: Kneser-Ney smoothing (1995) by kaldingram, written as ARPA."""

import contextlib
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from kaldingram.train import NgramCounts
from tqdm.auto import tqdm

from ..files import written_beside
from ..model.spelling_conformer import HAN
from ..model.tokenization_conformer import SPACE
from .ngram_table import END, START, UNKNOWN

UNITS = ("characters", "words")
# Discount n1 / (n1 + 2 n2) is 1 if no n-gram occurs twice. Those that occur once would then have a probability of zero.
_MAX_DISCOUNT = 0.95


def choose_units(texts: Sequence[str]) -> str:
    """Return "characters" for texts with few spaces (fewer than one in 20 characters), else "words"."""
    return "words" if sum(text.count(" ") for text in texts) * 20 >= sum(map(len, texts)) else "characters"


def split_units(text: str, *, units: str) -> list[str]:
    """Return the units of a normalised text: characters with `▁` for a space, or words; a Han character is a word."""
    if units == "characters":
        return list(text.replace(" ", SPACE))
    return [word for word in HAN.sub(r" \g<0> ", text).split() if word not in (*START, *END, *UNKNOWN)]


def train_ngrams(sentences: Sequence[Sequence[str]], path: str | Path, *, order: int) -> list[int]:
    """Train an n-gram model on sentences of units, write it as gzipped ARPA, and return its numbers of n-grams.

    Raises:
        ValueError: All sentences are empty, or the order is less than 2.
    """
    if order < 2:
        raise ValueError(f"order must be 2 or more, not {order}")
    if not any(sentences):
        raise ValueError("there is nothing to train on: all texts are empty after normalisation")
    counts = NgramCounts(order)
    for sentence in tqdm(sentences, desc="Counting", unit="sentence"):
        if sentence:
            counts.add_raw_counts_from_line(" ".join(sentence))
    with tqdm(total=4, desc="Estimating", unit="step") as progress, written_beside(path) as partial:
        for step in (counts.cal_discounting_constants, counts.cal_f, counts.cal_bow):
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for each order
                step()
            counts.d = [min(discount, _MAX_DISCOUNT) for discount in counts.d]
            progress.update()
        with (
            open(partial, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as compressed,  # the same bytes for the same texts
            io.TextIOWrapper(compressed, encoding="utf-8", newline="\n") as file,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            counts.print_as_arpa(file)
        progress.update()
    return [sum(len(history.word_to_f) for history in histories.values()) for histories in counts.counts]
