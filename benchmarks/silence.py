"""Score utterances with silence or noise before and after them, as people record them: WER and CER.

    python benchmarks/silence.py --model_name_or_path runs/digits --dataset_name ../shared/data/digits_en

A recording of a corpus is often cut tightly at its words, but somebody who presses a button and speaks, or a detector
of speech with a margin, records the room, too. Options of decoding are those of `hf-asr transcribe`.
"""

import argparse

import datasets
import numpy as np
from tqdm.auto import tqdm

from hf_asr.arguments import Parser, add_dataclasses, to_dataclasses
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import load
from hf_asr.scoring.metrics import error_rates

RATE = 16000
# Seconds at each end, and the level of white noise there in dB below full scale; None for digital silence
MARGINS = ((0.0, None), (0.2, None), (0.5, None), (1.0, None), (2.0, None), (1.0, 60), (2.0, 50))


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model_name_or_path", "--dataset_name"):
        parser.add_argument(name, required=True)
    add_dataclasses(parser, [DecodingArguments])
    args = parser.parse_args()
    recognizer = load(args.model_name_or_path, arguments=to_dataclasses(args, [DecodingArguments])[0])
    datasets.disable_progress_bars()
    rows = Source(args.dataset_name).load("validation")
    waveforms = [read_row(row, sampling_rate=RATE) for row in tqdm(rows, unit="recording", leave=False)]
    normalize = recognizer.processor.tokenizer.normalize
    references = [normalize(text) for text in rows["text"]]
    print("| seconds before and after | what is there | CER | WER |")
    print("|---|---|---|---|")
    for seconds, level in MARGINS:
        generator = np.random.default_rng(0)
        transcripts = recognizer.transcribe([with_margins(each, seconds, level, generator) for each in waveforms])
        rates = error_rates(references, [normalize(transcript.text) for transcript in transcripts])
        what = "silence" if level is None else f"noise, {level} dB below full scale"
        print(f"| {seconds:g} | {what} | {rates['cer']:.2%} | {rates['wer']:.2%} |", flush=True)


def with_margins(waveform: np.ndarray, seconds: float, level: int | None, generator: np.random.Generator) -> np.ndarray:
    """Return a waveform with `seconds` of noise, `level` dB below full scale, before and after it."""
    scale = 0.0 if level is None else 10 ** (-level / 20)
    before, after = (scale * generator.standard_normal((2, round(seconds * RATE)))).astype(np.float32)
    return np.concatenate([before, waveform, after])


if __name__ == "__main__":
    main()
