"""Compare the transcript of one long recording with those of its utterances, and the memory with a minute's.

    python benchmarks/long_audio.py --model_name_or_path runs/streaming --dataset_name runs/quickstart-corpus \
        [--minutes 60] [--sparse] [--vad true] [--chunk_size 16 --num_left_chunks 8] [--streaming true]

The recording is made of utterances of the split, drawn again and again in random order, with 0.3 to 2 s of noise
between them. With `--sparse` they are in the last minute of each hour, and the rest is silence: 20 hours take some
megabytes on the disk. `hf-asr transcribe` reads it in a process of its own, whose greatest memory is measured. Errors
are those of the whole text; the times of words are compared with those in the dataset, where it has them. With `--vad
true` the recording is cut at pauses, and the seconds of utterances that are not recognised, and of noise that are, are
printed, too.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import psutil
import soundfile

from hf_asr.arguments import Parser, add_dataclasses, to_dataclasses
from hf_asr.data.audio import open_recording
from hf_asr.data.sources import Source, read_row
from hf_asr.data.word_times import TimedWord, read_word_times
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.decoding.transcript import Word
from hf_asr.decoding.voice_activity import speech_blocks
from hf_asr.scoring.metrics import count_errors
from hf_asr.scoring.word_times import compared_words, word_time_metrics

RATE = 16000
NOISE = 0.003  # standard deviation, about 50 dB below full scale


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the recording")
    parser.add_argument("--sparse", action="store_true", help="speech in the last minute of each hour only")
    add_dataclasses(parser, [DecodingArguments])
    args = parser.parse_args()
    datasets.disable_progress_bars()
    (arguments,) = to_dataclasses(args, [DecodingArguments])
    recognizer = load(args.model_name_or_path, arguments=arguments)
    rows = Source(args.dataset_name).load(args.eval_split_name)
    with tempfile.TemporaryDirectory() as folder:
        longer, minute = Path(folder) / "long.flac", Path(folder) / "minute.flac"
        order, starts = join_utterances(rows, longer, seconds=60 * args.minutes, is_sparse=args.sparse)
        join_utterances(rows, minute, seconds=60)
        options = command_options(arguments)
        result, seconds, memory = transcribe(args.model_name_or_path, longer, options)
        memory_of_minute = transcribe(args.model_name_or_path, minute, options)[2]
        duration = soundfile.info(longer).duration
        found = speech_found(longer, rows, order, starts) if args.vad else None
    normalize = recognizer.processor.tokenizer.normalize
    references = [normalize(rows[i]["text"]) for i in order]
    print(f"{duration / 60:.1f} minutes, {len(order)} utterances")
    print(f"CER of the utterances one by one: {alone(recognizer, rows, references, order):.2%}")
    print(f"CER of the recording:             {error_rate([' '.join(references)], [normalize(result['text'])]):.2%}")
    print(f"{seconds:.0f} s in all, {seconds / duration:.4f} of the recording's length")
    print(f"greatest memory: {memory:.0f} MB, {memory / memory_of_minute:.2f} times that of a minute")
    if found:
        print(
            "utterances left out: {missed:.1f} of {speech:.0f} s; noise taken: {false:.1f} of {noise:.0f} s; the "
            "detector takes {share:.4f} of the recording's length".format(**found)
        )
    if times := read_word_times(rows):
        expected = [shifted(word, start) for i, start in zip(order, starts, strict=True) for word in times[i] or []]
        words = [Word(**word) for word in result["words"]]
        print(word_time_metrics(compared_words(expected, words, normalize=normalize)))


def shifted(word: TimedWord, seconds: float) -> TimedWord:
    """Return a word whose times are later."""
    return TimedWord(word.word, word.start + seconds, None if word.end is None else word.end + seconds)


def join_utterances(
    rows: datasets.Dataset, path: Path, *, seconds: float, is_sparse: bool = False
) -> tuple[list[int], list[float]]:
    """Write a recording of at least `seconds`; return the utterances in their order, and their starts in seconds.

    Args:
        is_sparse: All but the last minute of each hour is silence.
    """
    generator = np.random.default_rng(0)
    order, starts, samples = [], [], 0
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while samples < RATE * seconds:
            for i in generator.permutation(len(rows)).tolist():
                while is_sparse and (silent := 59 * 60 * RATE - samples % (3600 * RATE)) > 0:
                    file.write(np.zeros(min(silent, RATE), np.float32))
                    samples += min(silent, RATE)
                gap = generator.normal(0, NOISE, round(RATE * generator.uniform(0.3, 2.0)))
                speech = read_row(rows[i], sampling_rate=RATE)
                file.write(np.concatenate([gap, speech]))
                order.append(i)
                starts.append((samples + len(gap)) / RATE)
                samples += len(gap) + len(speech)
                if samples >= RATE * seconds:
                    break
    return order, starts


def speech_found(path: Path, rows: datasets.Dataset, order: list[int], starts: list[float]) -> dict[str, float]:
    """Return the seconds of utterances and noise, how many of them are missed or taken, and the detector's time.

    An utterance is speech from its begin to its end, its own silence included.
    """
    began = time.perf_counter()
    blocks = [(len(block), is_speech) for block, is_speech in speech_blocks(open_recording(path), block_samples=2560)]
    share = (time.perf_counter() - began) * RATE / sum(size for size, _ in blocks)
    taken = np.concatenate([np.full(size, is_speech) for size, is_speech in blocks])
    spoken = np.zeros(len(taken), bool)
    for i, start in zip(order, starts, strict=True):
        first = round(start * RATE)
        spoken[first : first + len(read_row(rows[i], sampling_rate=RATE))] = True
    missed, false = (spoken & ~taken).sum() / RATE, (taken & ~spoken).sum() / RATE
    speech = spoken.sum() / RATE
    return {"missed": missed, "false": false, "speech": speech, "noise": len(spoken) / RATE - speech, "share": share}


def command_options(arguments: DecodingArguments) -> list[str]:
    """Return the options of decoding as `hf-asr transcribe` takes them, without those that have the default."""
    given, defaults = asdict(arguments), asdict(DecodingArguments())
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    return [part for name, value in changed.items() for part in (f"--{name}", str(value))]


def transcribe(model_name_or_path: str, path: Path, options: Sequence[str]) -> tuple[dict, float, float]:
    """Return the JSON of `hf-asr transcribe`, its seconds, and the greatest memory of the process in MB."""
    script = Path(__file__).parents[1] / "scripts" / "transcribe.py"
    command = [sys.executable, str(script), "--model_name_or_path", model_name_or_path]
    output, seconds, memory = measured([*command, *options, "--output_format", "json", str(path)])
    return json.loads(output), seconds, memory


def measured(command: Sequence[str]) -> tuple[str, float, float]:
    """Return the output of a command that succeeds, its seconds, and the greatest memory of the process in MB."""
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        if process.wait():
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        return output.read().decode(), time.perf_counter() - started, peak / 2**20


def alone(recognizer: Recognizer, rows: datasets.Dataset, references: list[str], order: list[int]) -> float:
    """Return the CER of the utterances one by one, each as often as it is in the recording."""
    different = sorted(set(order))
    transcripts = recognizer.transcribe([read_row(rows[i], sampling_rate=RATE) for i in different])
    normalize = recognizer.processor.tokenizer.normalize
    texts = {i: normalize(transcript.text) for i, transcript in zip(different, transcripts, strict=True)}
    return error_rate(references, [texts[i] for i in order])


def error_rate(references: list[str], predictions: list[str]) -> float:
    """Return the CER without spaces, because the borders of utterances have none in the prediction or two."""
    texts = ([re.sub(r"\s", "", text) for text in texts] for texts in (references, predictions))
    *errors, length = count_errors(*texts, unit="character").sum(0).tolist()
    return sum(errors) / length


if __name__ == "__main__":
    main()
