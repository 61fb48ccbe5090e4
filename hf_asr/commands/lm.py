"""Train an n-gram language model on texts or transcripts; the last line of the output is a JSON object."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import datasets
from tqdm.auto import tqdm
from transformers import AutoConfig

from ..arguments import Parser
from ..checkpoint import check_is_checkpoint, load_processor, loading
from ..console import print_json
from ..data.encodings import EncodingError, read_lines
from ..data.sources import Source
from ..decoding.arpa import read_arpa
from ..decoding.ngram_table import perplexity
from ..decoding.ngram_training import UNITS, choose_units, split_units, train_ngrams
from ..decoding.phrase_automaton import stands_alone
from ..decoding.word_list import random_sentences, read_word_list
from ..files import LANGUAGE_MODEL
from ..model.tokenization_conformer import normalize_text


def add_arguments(parser: Parser) -> None:
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXTS", help="Files with a sentence in each line.")
    parser.add_argument(
        "--dataset_name", help="Dataset or manifest whose transcripts are texts, too; equal transcripts count once."
    )
    parser.add_argument("--dataset_config_name", help="Configuration of a dataset on the Hub.")
    parser.add_argument("--train_split_name", default="train", help="Split with these transcripts.")
    parser.add_argument("--text_column_name", default="text", help="Column with the transcript.")
    parser.add_argument(
        "--word_list",
        type=Path,
        help="File with a word and its frequency in each line; sentences of random words, drawn by their frequencies, "
        "are texts, too.",
    )
    parser.add_argument("--word_list_sentences", type=int, default=200_000, help="Number of these sentences.")
    parser.add_argument("--output_dir", type=Path, required=True, help=f"Folder for {LANGUAGE_MODEL}.")
    parser.add_argument(
        "--model_name_or_path", help="Checkpoint that normalises the texts as its transcripts; else the rule `basic`."
    )
    parser.add_argument(
        "--units",
        choices=["auto", *UNITS],
        default="auto",
        help="Units of the n-grams; a Han character is a word. `auto`: characters for texts with hardly any spaces.",
    )
    parser.add_argument("--order", type=int, default=3, help="Length of the n-grams, 2 or more.")
    parser.add_argument("--eval_texts", nargs="+", type=Path, help="Files of which the perplexity is reported.")


def run(args: Namespace) -> None:
    datasets.disable_progress_bars()
    if not args.texts and not args.dataset_name and not args.word_list:
        raise ValueError("give text files, a dataset with --dataset_name, or a list of words with --word_list")
    normalize = _normalizer(args.model_name_or_path)
    held_out = _normalized(_lines(args.eval_texts or ()), normalize)
    if args.eval_texts and not held_out:
        raise ValueError(f"{', '.join(map(str, args.eval_texts))}: there is no text to evaluate on after normalisation")
    texts = _normalized([*_lines(args.texts), *_transcripts(args), *_random_sentences(args)], normalize)
    if texts and not any(" " in text or any(map(stands_alone, text)) for text in texts):
        print("the texts are single words: a beam search with --lexicon usually makes fewer errors", file=sys.stderr)
    units = choose_units(texts) if args.units == "auto" else args.units
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / LANGUAGE_MODEL
    ngrams = train_ngrams([split_units(text, units=units) for text in texts], path, order=args.order)
    result = {
        "language_model": str(path),
        "units": units,
        "order": args.order,
        "sentences": len(texts),
        "ngrams": ngrams,
    }
    if held_out:
        found = perplexity(read_arpa(path), [split_units(text, units=units) for text in held_out])
        result |= {"perplexity": round(found.value, 3), "eval_units": found.units, "eval_unknown": found.unknown}
    print_json(result)


def _normalizer(model_name_or_path: str | None) -> Callable[[str], str]:
    """Return the function that normalises a text as a checkpoint's tokenizer does."""
    if model_name_or_path is None:
        return lambda text: normalize_text(text, rule="basic")
    check_is_checkpoint(model_name_or_path)
    with loading(model_name_or_path):
        config = AutoConfig.from_pretrained(model_name_or_path)
        return load_processor(model_name_or_path, config).tokenizer.normalize


def _normalized(texts: Sequence[str], normalize: Callable[[str], str]) -> list[str]:
    """Return texts normalised, without those that are empty then."""
    found = (normalize(text) for text in tqdm(texts, desc="Normalising", unit="sentence"))
    return [text for text in found if text]


def _lines(paths: Iterable[Path]) -> list[str]:
    lines = []
    for path in paths:
        try:
            lines += read_lines(path)
        except EncodingError as error:
            raise ValueError(f"{path} {error}") from error
    return lines


def _transcripts(args: Namespace) -> list[str]:
    """Return the different transcripts of a dataset; often several people have read the same sentence."""
    if not args.dataset_name:
        return []
    source = Source(args.dataset_name, args.dataset_config_name, text_column_name=args.text_column_name)
    return list(dict.fromkeys(text for text in source.load(args.train_split_name)["text"] if text))


def _random_sentences(args: Namespace) -> list[str]:
    if not args.word_list:
        return []
    if args.word_list_sentences < 1:
        raise ValueError(f"--word_list_sentences must be 1 or more, not {args.word_list_sentences}")
    return random_sentences(read_word_list(args.word_list), count=args.word_list_sentences)
