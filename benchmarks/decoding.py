"""Measure decoding: what beam search, a language model and hotwords are worth, and how long they take.

    python benchmarks/decoding.py quality --model_name_or_path M --dataset_name D [--language_model lm.arpa.gz]
    python benchmarks/decoding.py hotwords --model_name_or_path M --dataset_name D [--phrases 30] [--boost 1 2 3]
    python benchmarks/decoding.py speed --model_name_or_path M --dataset_name D [--language_model lm.arpa.gz]
        [--vocab_size 4233] [--threads 1 2]

`quality` tunes the weights on one half of the split, as `hf-asr tune-decoding` does on a whole one, and scores the
other half. `hotwords` takes phrases of the split that occur in a single utterance, and compares how many of them are
recognised with and without them as hotwords, and the CER of the other utterances. `speed` decodes the log-probabilities
of the split again and again, beside flashlight-text, in turn; --vocab_size adds improbable tokens.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import datasets
import numpy as np
import torch
import torch.nn.functional as F

from hf_asr.commands.tune_decoding import log_probs_of
from hf_asr.data.sources import Source
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.decoders import Decoder
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.hotwords import Hotword
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.decoding.transcript import to_text
from hf_asr.scoring.metrics import bootstrap_interval, count_errors, split_words
from hf_asr.scoring.tuning import SearchWeights, decode_texts, tune

BATCHES = (1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("quality", measure_quality), ("hotwords", measure_hotwords), ("speed", measure_speed)):
        command = commands.add_parser(name)
        command.add_argument("--model_name_or_path", required=True)
        command.add_argument("--dataset_name", required=True)
        command.add_argument("--eval_split_name", default="validation")
        command.add_argument("--beam_size", type=int, default=10)
        if name != "hotwords":
            command.add_argument("--language_model", help="ARPA file")
        command.set_defaults(run=run)
    commands.choices["hotwords"].add_argument("--phrases", type=int, default=30)
    commands.choices["hotwords"].add_argument("--boost", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    commands.choices["speed"].add_argument("--vocab_size", type=int, default=0)
    commands.choices["speed"].add_argument("--threads", type=int, nargs="+", default=[1])
    commands.choices["speed"].add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    args.run(args)


def load_split(args: argparse.Namespace) -> tuple[Recognizer, list[torch.Tensor], list[str]]:
    """Return a recogniser with a beam search, and log-probabilities and normalised transcripts of the split."""
    options = {"language_model": getattr(args, "language_model", None) or "none", "beam_size": args.beam_size}
    recognizer = load(args.model_name_or_path, arguments=DecodingArguments(decoding="beam", **options))
    rows = Source(args.dataset_name).load(args.eval_split_name)
    texts = rows["text"][:]
    places, log_probs = zip(*log_probs_of(recognizer, rows), strict=True)
    return recognizer, list(log_probs), [recognizer.processor.tokenizer.normalize(texts[place]) for place in places]


# Quality


def measure_quality(args: argparse.Namespace) -> None:
    """Print a table with the error rates of the second half for weights that were tuned on the first one."""
    recognizer, log_probs, references = load_split(args)
    tokenizer, decoder = recognizer.processor.tokenizer, recognizer.decoder
    tuning, scoring = (log_probs[::2], references[::2]), (log_probs[1::2], references[1::2])
    plain = replace(decoder, scorers=())
    decoders: dict[str, tuple[Decoder, SearchWeights | None]] = {
        "greedy": (GreedyDecoder(tokenizer.pad_token_id), None),
        f"beam {args.beam_size}": (plain, None),
    }
    for name, base in (("blank penalty", plain), ("language model and blank penalty", decoder)):
        if name == "blank penalty" or base.scorers:
            best = tune(base, *tuning, tokenizer, show_progress=False)[0].weights
            decoders[f"beam {args.beam_size}, {name}"] = (best.applied(base), best)
    print(f"tuned on {len(tuning[0])} utterances, scored on {len(scoring[0])} others")
    print("| decoding | CER (95 % interval) | change | WER | weights |\n|---|---|---|---|---|")
    first = None
    for name, (each, weights) in decoders.items():
        texts = decode_texts(each, scoring[0], tokenizer)
        characters, words = (count_errors(scoring[1], texts, unit=unit) for unit in ("character", "word"))
        low, high = bootstrap_interval(characters)
        rate = error_rate(characters)
        first = first or rate
        interval = f"{100 * rate:.2f} % ({100 * low:.2f}-{100 * high:.2f})"
        shown = "" if weights is None else ", ".join(f"{value:g}" for value in vars(weights).values())
        print(f"| {name} | {interval} | {rate / first - 1:+.1%} | {100 * error_rate(words):.2f} % | {shown} |")


def error_rate(counts: np.ndarray) -> float:
    """Return the error rate of counts (utterances, 4)."""
    return counts[:, :3].sum() / max(counts[:, 3].sum(), 1)


# Hotwords


def measure_hotwords(args: argparse.Namespace) -> None:
    """Print how many rare phrases are recognised, and the errors elsewhere, for each boost."""
    recognizer, log_probs, references = load_split(args)
    tokenizer, decoder = recognizer.processor.tokenizer, recognizer.decoder
    phrases = rare_phrases(references, args.phrases)
    has_phrase = np.array([any(contains(text, phrase) for phrase in phrases) for text in references])
    kept = [decoder.keep(values) for values in log_probs]
    print(f"{len(phrases)} phrases: {', '.join(phrases)}")
    print(
        "| boost | phrases found | found where they are not | CER with phrases | CER elsewhere |\n|---|---|---|---|---|"
    )
    for boost in [0.0, *args.boost]:
        hotwords = [Hotword(phrase, boost) for phrase in phrases] if boost else []
        searches = [decoder.begin(hotwords) for _ in kept]
        decoder.advance(searches, kept)
        texts = [tokenizer.normalize(to_text(found[0], tokenizer)) for found in decoder.finish(searches)]
        pairs = [(phrase, *pair) for phrase in phrases for pair in zip(references, texts, strict=True)]
        right = sum(contains(there, phrase) and contains(text, phrase) for phrase, there, text in pairs)
        wrong = sum(contains(text, phrase) and not contains(there, phrase) for phrase, there, text in pairs)
        counts = count_errors(references, texts, unit="character")
        rates = " | ".join(f"{100 * error_rate(counts[rows]):.2f} %" for rows in (has_phrase, ~has_phrase))
        print(f"| {boost:g} | {right} of {len(phrases)} | {wrong} | {rates} |")


def rare_phrases(references: Sequence[str], number: int) -> list[str]:
    """Return phrases of one utterance each: words of five letters and more, and three Han characters in a row."""
    found: dict[str, set[int]] = {}
    for place, text in enumerate(references):
        words = split_words(text).split()
        grams = {word for word in words if len(word) > 4}
        runs = (words[i : i + 3] for i in range(len(words) - 2))
        grams |= {"".join(run) for run in runs if all(len(word) == 1 and word > "\u3400" for word in run)}
        for gram in grams:
            found.setdefault(gram, set()).add(place)
    single = sorted(gram for gram, places in found.items() if len(places) == 1)
    random.Random(0).shuffle(single)
    used, phrases = set(), []
    for gram in single:
        if not found[gram] & used:  # one phrase of an utterance
            used |= found[gram]
            phrases.append(gram)
    return phrases[:number]


def contains(text: str, phrase: str) -> bool:
    """Return whether a text has a phrase, as whole words."""
    return f" {' '.join(split_words(phrase).split())} " in f" {split_words(text)} "


# Speed


def measure_speed(args: argparse.Namespace) -> None:
    """Print utterances per second of each decoder, and its share of a transcription."""
    recognizer, log_probs, _ = load_split(args)
    lack = max(0, args.vocab_size - log_probs[0].shape[1])
    log_probs = [F.pad(values, (0, lack), value=-20.0) for values in log_probs]
    print("| threads | batch | decoder | utterances per second | times flashlight-text's | of greedy's transcription |")
    print("|---|---|---|---|---|---|")
    for threads in args.threads:
        torch.set_num_threads(threads)
        encoding = encoding_seconds(recognizer, args)
        for batch in BATCHES:
            runs = decoders_of(recognizer, args, vocab_size=log_probs[0].shape[1])
            times = {name: [] for name in runs}
            for _ in range(args.rounds):
                for name, decode in runs.items():
                    started = time.perf_counter()
                    for start in range(0, len(log_probs), batch):
                        decode(log_probs[start : start + batch])
                    times[name].append((time.perf_counter() - started) / len(log_probs))
            seconds = {name: float(np.median(values)) for name, values in times.items()}
            for name, value in seconds.items():
                peer = seconds.get("flashlight-text, language model" if "language" in name else "flashlight-text")
                ratio = "" if peer is None else f"{peer / value:.2f}"
                share = (encoding + value) / (encoding + seconds["greedy"])
                print(f"| {threads} | {batch} | {name} | {1 / value:.0f} | {ratio} | {share:.2f} times |", flush=True)


def encoding_seconds(recognizer: Recognizer, args: argparse.Namespace) -> float:
    """Return the seconds of features and model for an utterance in batches of up to two minutes."""
    rows = Source(args.dataset_name).load(args.eval_split_name)
    started = time.perf_counter()
    count = len(list(log_probs_of(recognizer, rows)))
    return (time.perf_counter() - started) / count


def decoders_of(recognizer: Recognizer, args: argparse.Namespace, *, vocab_size: int) -> dict[str, Callable]:
    """Return functions that decode a batch of log-probabilities to token ids, by name."""
    beam: BeamDecoder = recognizer.decoder
    plain, blank = replace(beam, scorers=()), recognizer.processor.tokenizer.pad_token_id
    texts = [row for row in Source(args.dataset_name).load(args.eval_split_name)["text"]]
    hotwords = {count: [Hotword(phrase, 1.0) for phrase in phrases_like(texts, count)] for count in (30, 1000)}

    def run(decoder: Decoder, phrases: Sequence[Hotword] = ()) -> Callable:
        def decode(log_probs: Sequence[torch.Tensor]) -> list:
            searches = [decoder.begin(phrases) for _ in log_probs]
            decoder.advance(searches, [decoder.keep(values) for values in log_probs])
            return decoder.finish(searches)

        return decode

    size = f"beam {args.beam_size}"
    found = {"greedy": run(GreedyDecoder(blank)), size: run(plain)}
    found |= {f"{size}, {count} hotwords": run(plain, phrases) for count, phrases in hotwords.items()}
    peers = {"flashlight-text": flashlight(args, blank, vocab_size)}
    if beam.scorers:
        found[f"{size}, language model"] = run(beam)
    return found | {name: decode for name, decode in peers.items() if decode is not None}


def phrases_like(texts: Sequence[str], count: int) -> list[str]:
    """Return phrases of two to four words (Han characters) of the texts in random order."""
    generator, words = random.Random(0), split_words(" ".join(texts)).split()
    starts = [generator.randrange(len(words) - 4) for _ in range(count)]
    return [" ".join(words[start : start + generator.randint(2, 4)]) for start in starts]


def flashlight(args: argparse.Namespace, blank: int, vocab_size: int) -> Callable | None:
    """Return flashlight-text's search without a lexicon; None where there is no wheel of it."""
    try:
        from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions, ZeroLM
    except ImportError:
        return None
    options = LexiconFreeDecoderOptions(
        beam_size=args.beam_size,
        beam_size_token=args.beam_size,
        beam_threshold=1e9,
        lm_weight=0.0,
        sil_score=0.0,
        log_add=True,
        criterion_type=CriterionType.CTC,
    )
    decoder = LexiconFreeDecoder(options, ZeroLM(), -1, blank, [])

    def decode(log_probs: Sequence[torch.Tensor]) -> list:
        contiguous = [values.contiguous() for values in log_probs]
        return [decoder.decode(values.data_ptr(), len(values), vocab_size)[0] for values in contiguous]

    return decode


if __name__ == "__main__":
    main()
