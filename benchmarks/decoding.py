"""Measure decoding: what beam search, a language model and hotwords are worth, and how long they take.

    python benchmarks/decoding.py quality --model_name_or_path M --dataset_name D [--language_model lm.arpa.gz]
    python benchmarks/decoding.py hotwords --model_name_or_path M --dataset_name D [--phrases 30] [--boost 1 2 3]
    python benchmarks/decoding.py agreement --model_name_or_path M --dataset_name D --language_model lm.arpa.gz
    python benchmarks/decoding.py speed --model_name_or_path M --dataset_name D [--language_model lm.arpa.gz]
        [--vocab_size 4233] [--threads 1 2]

`quality` tunes the weights on one half of the split, as `hf-asr tune-decoding` does on a whole one, and scores the
other half; with a checkpoint that has an attention decoder, it includes rescoring. `hotwords` takes phrases of the
split that occur in a single utterance, and compares how many of them are recognised with and without them as
hotwords, and the CER of the other utterances. `agreement` compares the texts with those of flashlight-text with the
same language model, which has to be of characters. `speed` decodes the log-probabilities of the split again and
again, beside flashlight-text and ctc-beam-decoder, in turn; --vocab_size adds improbable tokens.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from hf_asr.commands.tune_decoding import encode
from hf_asr.data.sources import Source
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.attention import AttentionDecoder
from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.decoders import Decoder
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.hotwords import Hotword
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.decoding.rescoring import RescoringDecoder
from hf_asr.decoding.streams import Encoded
from hf_asr.decoding.transcript import to_text
from hf_asr.model.tokenization_conformer import SPACE
from hf_asr.scoring.metrics import bootstrap_interval, count_errors, split_words
from hf_asr.scoring.tuning import tune, tune_ctc_weight

BATCHES = (1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in COMMANDS.items():
        command = commands.add_parser(name)
        command.add_argument("--model_name_or_path", required=True)
        command.add_argument("--dataset_name", required=True)
        command.add_argument("--eval_split_name", default="validation")
        command.add_argument("--beam_size", type=int, default=10)
        if name != "hotwords":
            command.add_argument("--language_model", help="ARPA file")
        command.set_defaults(run=run)
    commands.choices["agreement"].add_argument("--language_model_weight", type=float, default=0.5)
    commands.choices["hotwords"].add_argument("--phrases", type=int, default=30)
    commands.choices["hotwords"].add_argument("--boost", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    commands.choices["speed"].add_argument("--vocab_size", type=int, default=0)
    commands.choices["speed"].add_argument("--threads", type=int, nargs="+", default=[1])
    commands.choices["speed"].add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    args.run(args)


def load_split(args: argparse.Namespace) -> tuple[Recognizer, list[Encoded], list[str]]:
    """Return a recogniser, and what is encoded and the normalised transcripts of the split.

    Its decoder is a beam search, or the rescoring of one if the checkpoint has an attention decoder.
    """
    options = {"language_model": getattr(args, "language_model", None) or "none", "beam_size": args.beam_size}
    options["language_model_weight"] = getattr(args, "language_model_weight", None)
    if options["language_model"] != "none":
        options["word_insertion_bonus"] = 0.0  # flashlight-text has none; `tune` replaces it
    has_decoder = getattr(load(args.model_name_or_path).model.config, "decoder_layers", 0)
    decoding = "attention_rescoring" if has_decoder else "beam"
    recognizer = load(args.model_name_or_path, arguments=DecodingArguments(decoding=decoding, **options))
    rows = Source(args.dataset_name).load(args.eval_split_name)
    texts = rows["text"][:]
    places, encoded = zip(*encode(recognizer, rows), strict=True)
    return recognizer, list(encoded), [recognizer.processor.tokenizer.normalize(texts[place]) for place in places]


def beam_of(recognizer: Recognizer) -> BeamDecoder:
    """Return the beam search, with a single hypothesis."""
    decoder = recognizer.decoder
    return replace(decoder.beam, nbest=1) if isinstance(decoder, RescoringDecoder) else decoder


# Quality


def measure_quality(args: argparse.Namespace) -> None:
    """Print a table with the error rates of the second half for weights that were tuned on the first one."""
    recognizer, encoded, references = load_split(args)
    tokenizer, decoder = recognizer.processor.tokenizer, beam_of(recognizer)
    tuning, scoring = (encoded[::2], references[::2]), (encoded[1::2], references[1::2])
    log_probs = [each.log_probs for each in tuning[0]]
    plain = replace(decoder, scorers=())
    size = f"beam {args.beam_size}"
    decoders: dict[str, tuple[Decoder, Sequence[float]]] = {
        "greedy": (GreedyDecoder(tokenizer.pad_token_id), ()),
        size: (plain, ()),
    }
    for name, base in ((f"{size}, blank penalty", plain), (f"{size}, language model and blank penalty", decoder)):
        if base is plain or base.scorers:
            best = tune(base, log_probs, tuning[1], tokenizer, show_progress=False)[0].weights
            decoders[name] = (best.applied(base), tuple(vars(best).values()))
    if isinstance(recognizer.decoder, RescoringDecoder):
        for name in list(decoders)[1:]:
            beam = replace(decoders[name][0], nbest=args.beam_size)
            base = replace(recognizer.decoder, beam=beam)
            weight, _ = tune_ctc_weight(base, *tuning, tokenizer)
            decoders[f"rescoring of {name}"] = (replace(base, ctc_weight=weight), (*decoders[name][1], weight))
        attention = {"beam_size": args.beam_size, "seconds_per_frame": recognizer.seconds_per_frame}
        decoders["attention alone"] = (AttentionDecoder(tokenizer.pad_token_id, recognizer.model, **attention), ())
    print(f"tuned on {len(tuning[0])} utterances, scored on {len(scoring[0])} others")
    print("| decoding | CER (95 % interval) | change | WER | weights |\n|---|---|---|---|---|")
    first = None
    for name, (each, weights) in decoders.items():
        texts = decoded(each, scoring[0], tokenizer)
        characters, words = (count_errors(scoring[1], texts, unit=unit) for unit in ("character", "word"))
        low, high = bootstrap_interval(characters)
        rate = error_rate(characters)
        first = first or rate
        interval = f"{100 * rate:.2f} % ({100 * low:.2f}-{100 * high:.2f})"
        shown = ", ".join(f"{value:g}" for value in weights)
        print(f"| {name} | {interval} | {rate / first - 1:+.1%} | {100 * error_rate(words):.2f} % | {shown} |")


def decoded(decoder: Decoder, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the normalised text of each recording."""
    searches = [decoder.begin() for _ in encoded]
    decoder.advance(searches, [decoder.keep(*each) for each in encoded])
    return [tokenizer.normalize(to_text(found[0], tokenizer)) for found in decoder.finish(searches)]


# Agreement


def measure_agreement(args: argparse.Namespace) -> None:
    """Print how many texts of flashlight-text with the same language model are ours, and the CER of both."""
    recognizer, encoded, references = load_split(args)
    tokenizer, beam = recognizer.processor.tokenizer, beam_of(recognizer)
    beam = replace(beam, skip_blank=1.0)  # all frames are searched, as there
    ours = decoded(beam, encoded, tokenizer)
    vocab_size = encoded[0].log_probs.shape[1]
    decode = flashlight(args, tokenizer, vocab_size, weight=args.language_model_weight)
    theirs = []
    for found in decode(encoded):
        path = np.array([token for token in found.tokens if token >= 0])
        theirs.append(tokenizer.normalize(tokenizer.decode(path.tolist())))
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    rates = (100 * error_rate(count_errors(references, texts, unit="character")) for texts in (ours, theirs))
    print("{} of {} texts are the same; CER ours {:.2f} %, flashlight-text's {:.2f} %".format(same, len(ours), *rates))
    for a, b in zip(ours, theirs, strict=True):
        if a != b:
            print(f"ours:   {a}\ntheirs: {b}")


def error_rate(counts: np.ndarray) -> float:
    """Return the error rate of counts (utterances, 4)."""
    return counts[:, :3].sum() / max(counts[:, 3].sum(), 1)


# Hotwords


def measure_hotwords(args: argparse.Namespace) -> None:
    """Print how many rare phrases are recognised, and the errors elsewhere, for each boost."""
    recognizer, encoded, references = load_split(args)
    tokenizer, decoder = recognizer.processor.tokenizer, beam_of(recognizer)
    phrases = rare_phrases(references, args.phrases)
    has_phrase = np.array([any(contains(text, phrase) for phrase in phrases) for text in references])
    kept = [decoder.keep(each.log_probs) for each in encoded]
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
    recognizer, encoded, _ = load_split(args)
    lack = max(0, args.vocab_size - encoded[0].log_probs.shape[1])
    encoded = [Encoded(F.pad(values, (0, lack), value=-20.0), states) for values, states in encoded]
    print("| threads | batch | decoder | utterances per second | times flashlight-text's | of greedy's transcription |")
    print("|---|---|---|---|---|---|")
    for threads in args.threads:
        torch.set_num_threads(threads)
        encoding = encoding_seconds(recognizer, args)
        for batch in BATCHES:
            runs = decoders_of(recognizer, args, vocab_size=encoded[0].log_probs.shape[1])
            times = {name: [] for name in runs}
            for _ in range(args.rounds):
                for name, decode in runs.items():
                    started = time.perf_counter()
                    for start in range(0, len(encoded), batch):
                        decode(encoded[start : start + batch])
                    times[name].append((time.perf_counter() - started) / len(encoded))
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
    count = len(list(encode(recognizer, rows)))
    return (time.perf_counter() - started) / count


def decoders_of(recognizer: Recognizer, args: argparse.Namespace, *, vocab_size: int) -> dict[str, Callable]:
    """Return functions that decode a batch of encoded recordings, by name."""
    beam, tokenizer = beam_of(recognizer), recognizer.processor.tokenizer
    plain, blank = replace(beam, scorers=()), tokenizer.pad_token_id
    texts = [row for row in Source(args.dataset_name).load(args.eval_split_name)["text"]]
    hotwords = {
        count: tuple(Hotword(phrase, 1.0) for phrase in phrases_like(texts, count)) for count in (30, 1000)
    }  # as a recogniser has them

    def run(decoder: Decoder, phrases: Sequence[Hotword] = ()) -> Callable:
        def decode(encoded: Sequence[Encoded]) -> list:
            searches = [decoder.begin(phrases) for _ in encoded]
            decoder.advance(searches, [decoder.keep(*each) for each in encoded])
            return decoder.finish(searches)

        return decode

    size = f"beam {args.beam_size}"
    found = {"greedy": run(GreedyDecoder(blank)), size: run(plain)}
    found |= {f"{size}, {count} hotwords": run(plain, phrases) for count, phrases in hotwords.items()}
    if isinstance(recognizer.decoder, RescoringDecoder):
        found[f"{size}, rescoring"] = run(replace(recognizer.decoder, beam=replace(plain, nbest=args.beam_size)))
    peers = {"flashlight-text": flashlight(args, tokenizer, vocab_size)}
    peers["ctc-beam-decoder"] = ctc_beam_decoder(args, tokenizer, vocab_size)
    if beam.scorers:
        found[f"{size}, language model"] = run(beam)
        peers["flashlight-text, language model"] = flashlight(args, tokenizer, vocab_size, weight=0.5)
    return found | {name: decode for name, decode in peers.items() if decode is not None}


def phrases_like(texts: Sequence[str], count: int) -> list[str]:
    """Return phrases of two to four words (Han characters) of the texts in random order."""
    generator, words = random.Random(0), split_words(" ".join(texts)).split()
    starts = [generator.randrange(len(words) - 4) for _ in range(count)]
    return [" ".join(words[start : start + generator.randint(2, 4)]) for start in starts]


def flashlight(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, vocab_size: int, *, weight: float = 0.0
) -> Callable | None:
    """Return flashlight-text's search without a lexicon; None where there is no wheel of it.

    Args:
        weight: Of the language model, whose units are characters; 0 for none.
    """
    try:
        from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions, ZeroLM
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError:
        return None
    options = LexiconFreeDecoderOptions(
        beam_size=args.beam_size,
        beam_size_token=args.beam_size,
        beam_threshold=1e9,
        lm_weight=weight * math.log(10),  # KenLM gives logarithms to the base of 10
        sil_score=0.0,
        log_add=True,
        criterion_type=CriterionType.CTC,
    )
    model = ZeroLM()
    if weight:
        dictionary = Dictionary()
        for token in range(vocab_size):
            name = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else f"<{token}>"
            dictionary.add_entry(name, token)
        model = KenLM(args.language_model, dictionary)
    decoder = LexiconFreeDecoder(options, model, -1, tokenizer.pad_token_id, [])

    def decode(encoded: Sequence[Encoded]) -> list:
        contiguous = [each.log_probs.contiguous() for each in encoded]
        return [decoder.decode(values.data_ptr(), len(values), vocab_size)[0] for values in contiguous]

    return decode


def ctc_beam_decoder(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Callable | None:
    """Return ctc-beam-decoder's search, with its pruning of improbable tokens and texts; None without the package."""
    try:
        from ctc_beam_decoder import build_ctcdecoder
    except ImportError:
        return None
    labels = [tokenizer.convert_ids_to_tokens(token) for token in range(min(vocab_size, len(tokenizer)))]
    labels = [" " if label == SPACE else label for label in labels]
    labels[tokenizer.pad_token_id] = ""
    decoder = build_ctcdecoder(labels + [f"<{token}>" for token in range(len(labels), vocab_size)])

    def decode(encoded: Sequence[Encoded]) -> list:
        return [decoder.decode_beams(each.log_probs.numpy(), beam_width=args.beam_size)[0] for each in encoded]

    return decode


COMMANDS = {
    "quality": measure_quality,
    "hotwords": measure_hotwords,
    "agreement": measure_agreement,
    "speed": measure_speed,
}

if __name__ == "__main__":
    main()
