"""Score a checkpoint that was trained in chunks at each latency, and compare streamed with masked text.

    python benchmarks/chunks.py --model_name_or_path runs/streaming --dataset_name runs/quickstart-corpus

A frame sees the same 5.1 s of the past with each chunk size, or everything at full context. Each utterance is also
encoded chunk by chunk through the cache, and the text must be the same. The errors of the starts of words are printed
where the dataset has their times.
"""

import argparse

import datasets

from hf_asr.data.sources import Source
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import load
from hf_asr.scoring.evaluation import evaluate_rows

LEFT_FRAMES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--chunk_size", type=int, nargs="+", default=[-1, 16, 8, 4], help="encoder frames; -1 is full")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    rows = Source(args.dataset_name).load(args.eval_split_name)
    print("| chunk | latency | CER | WER | starts of words, median | 95 % within | median delay | streamed = masked |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.chunk_size:
        chunks = {"chunk_size": size, "num_left_chunks": -1 if size < 0 else LEFT_FRAMES // size}
        recognizer = load(args.model_name_or_path, arguments=DecodingArguments(**chunks))
        metrics, records = evaluate_rows(recognizer, rows, show_progress=False)
        cells = ["full", "-"]
        if size > 0:
            frame = 1000 * recognizer.seconds_per_frame
            cells = [f"{size * frame:.0f} ms", f"{recognizer.processor.streaming_latency_ms(size):.0f} ms"]
        cells += [f"{low_high(metrics, name)}" for name in ("cer", "wer")]
        for name in ("error_median", "error_p95", "delay_median"):
            value = metrics.get(f"word_start_{name}_ms")
            cells.append("-" if value is None else f"{value:.0f} ms")
        print("|", " | ".join([*cells, "-" if size < 0 else equal_texts(args, rows, records, chunks)]), "|", flush=True)


def low_high(metrics: dict, name: str) -> str:
    """Return an error rate with its interval, in percent."""
    low, high = metrics[f"{name}_interval"]
    return f"{metrics[name]:.2%} ({100 * low:.1f}-{100 * high:.1f})"


def equal_texts(args: argparse.Namespace, rows: datasets.Dataset, records: list[dict], chunks: dict) -> str:
    """Return how many utterances have the same text when they are streamed."""
    recognizer = load(args.model_name_or_path, arguments=DecodingArguments(**chunks, streaming=True))
    streamed = evaluate_rows(recognizer, rows, show_progress=False)[1]
    equal = sum(one["prediction"] == other["prediction"] for one, other in zip(records, streamed, strict=True))
    return f"{equal} of {len(records)}"


if __name__ == "__main__":
    main()
