"""Measure alignment: word times, scores of right and wrong transcripts, and one long recording with its text.

    python benchmarks/alignment.py --model_name_or_path runs/quickstart --dataset_name runs/quickstart-corpus \
        [--eval_split_name validation] [--minutes 60]

The wrong transcripts are those of another recording, and the right ones with one word replaced, left out or added; a
Han character is a word. The area under the curve is the probability that a right transcript has a higher score than a
wrong one. The long recording is that of benchmarks/long_audio.py; `hf-asr align` reads it in a process of its own.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from long_audio import RATE, join_utterances, measured, shifted

from hf_asr.arguments import Parser
from hf_asr.data.sources import Source, read_row
from hf_asr.data.word_times import read_word_times
from hf_asr.decoding.aligner import AlignedTranscript, align_recordings
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.decoding.subtitles import join_words
from hf_asr.decoding.transcript import Word
from hf_asr.scoring.metrics import split_words
from hf_asr.scoring.word_times import compared_words, word_time_metrics


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the long recording; 0 for none")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    rows = Source(args.dataset_name).load(args.eval_split_name)
    compare_scores(load(args.model_name_or_path), rows)
    if args.minutes:
        with tempfile.TemporaryDirectory() as folder:
            align_long(args.model_name_or_path, rows, Path(folder), seconds=60 * args.minutes)


def compare_scores(recognizer: Recognizer, rows: datasets.Dataset) -> None:
    """Print word errors of the right transcripts, and how well scores separate right from wrong ones."""
    normalize, times = recognizer.processor.tokenizer.normalize, read_word_times(rows)
    audio = [read_row(row, sampling_rate=RATE) for row in rows]
    found = align_recordings(recognizer, audio, rows["text"])
    good = [i for i, each in enumerate(found) if isinstance(each, AlignedTranscript)]
    print(f"{len(good)} of {len(rows)} transcripts are aligned")
    if times:
        pairs = ((times[i] or [], found[i].words) for i in good)
        print(
            word_time_metrics(
                word for left, right in pairs for word in compared_words(left, right, normalize=normalize)
            )
        )
    texts = [split_words(normalize(rows[i]["text"])).split() for i in good]
    right = [found[i].score for i in good]
    for name, wrong_texts in wrong(texts).items():
        wrong_found = align_recordings(recognizer, [audio[i] for i in good], wrong_texts)
        scores = [each.score for each in wrong_found if isinstance(each, AlignedTranscript)]
        print(
            f"{name}: area under the curve {area(right, scores):.4f}, median score {np.median(scores):.2f} "
            f"(right transcripts {np.median(right):.2f}; 5 % are below {np.quantile(right, 0.05):.2f})"
        )


def wrong(texts: Sequence[list[str]]) -> dict[str, list[str]]:
    """Return wrong transcripts from the words of the right ones, by what is wrong with them."""
    generator = random.Random(0)
    kinds: dict[str, list[list[str]]] = {name: [] for name in ("another", "replaced", "left out", "added")}
    for words in texts:
        other = generator.choice([each for each in texts if each != words])
        place, word = generator.randrange(len(words)), generator.choice(generator.choice(texts))
        kinds["another"].append(other)
        kinds["replaced"].append([*words[:place], word, *words[place + 1 :]])
        kinds["left out"].append([*words[:place], *words[place + 1 :]] or other)
        kinds["added"].append([*words[:place], word, *words[place:]])
    return {name: [join_words([Word(word, 0, 0) for word in words]) for words in each] for name, each in kinds.items()}


def area(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Return the area under the curve; two equal scores count half."""
    left, other = np.array(right)[:, None], np.array(wrong)[None]
    return float((left > other).mean() + (left == other).mean() / 2)


def align_long(model_name_or_path: str, rows: datasets.Dataset, folder: Path, *, seconds: float) -> None:
    """Print time, memory and word errors of a long recording."""
    order, starts = join_utterances(rows, folder / "long.wav", seconds=seconds)
    row = {"audio": "long.wav", "text": " ".join(rows[i]["text"] for i in order)}
    if times := read_word_times(rows):
        words = [shifted(word, start) for i, start in zip(order, starts, strict=True) for word in times[i] or []]
        row["words"] = [vars(word) for word in words]
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    script = Path(__file__).parents[1] / "scripts" / "align.py"
    command = [sys.executable, str(script), "--model_name_or_path", model_name_or_path, "--output_dir", str(folder)]
    command += ["--dataset_name", str(folder / "train.jsonl"), "--eval_split_name", "train"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output, elapsed, memory = measured(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    metrics = json.loads(output.splitlines()[-1])
    print(f"{metrics['audio_seconds'] / 60:.1f} minutes, {len(order)} utterances, {len(row['text'])} characters")
    print(f"{elapsed:.0f} s in all, {cpu:.0f} s of one core; greatest memory {memory:.0f} MB")
    print({name: value for name, value in metrics.items() if name.startswith("word_")})


if __name__ == "__main__":
    main()
