"""Find the weights of a beam search on a split of a dataset; the last line of the output is a JSON object."""

import shutil
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import torch
from tqdm.auto import tqdm

from ..arguments import Parser, add_dataclasses, to_dataclasses
from ..checkpoint import check_is_checkpoint
from ..console import on_one_line, print_json
from ..data.audio import AudioError
from ..data.sources import row_recording
from ..decoding.arguments import DecodingArguments, SearchArguments
from ..decoding.beam import BeamDecoder
from ..decoding.recognizer import BATCH_SECONDS, Recognizer, load
from ..decoding.rescoring import RescoringDecoder
from ..decoding.streams import Encoded
from ..decoding.tuned import write_tuned
from ..decoding.windows import batches
from ..files import DECODING, written_beside
from ..scoring.metrics import check_references
from ..scoring.tuning import SearchWeights, tune, tune_ctc_weight
from .source import add_source_arguments, load_rows

DECODINGS = ("beam", "attention_rescoring")
MAX_FRAMES = 45_000  # of log-probabilities in memory: half an hour at 40 ms


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="Folder of a checkpoint.")
    add_source_arguments(parser)
    add_dataclasses(parser, [SearchArguments])
    parser.add_argument(
        "--unit", choices=["character", "word"], default="character", help="Unit whose errors are counted."
    )


def run(args: Namespace) -> None:
    check_is_checkpoint(str(args.model_name_or_path))
    if not args.model_name_or_path.is_dir():
        raise ValueError(
            f"{args.model_name_or_path} is not a folder: {DECODING} is written into the checkpoint's folder"
        )
    (given,) = to_dataclasses(args, [DecodingArguments])
    if given.lexicon or given.hotwords:
        raise ValueError(f"{DECODING} stores neither a lexicon nor hotwords: leave out --lexicon and --hotwords")
    datasets.disable_progress_bars()
    rows, _ = load_rows(args)
    if given.decoding not in (None, *DECODINGS):
        raise ValueError(f"decoding must be one of {', '.join(DECODINGS)} to be tuned, not {given.decoding}")
    recognizer = load(args.model_name_or_path, arguments=replace(given, decoding=given.decoding or "beam"))
    decoder, tokenizer, texts = recognizer.decoder, recognizer.processor.tokenizer, rows["text"][:]
    places, encoded = zip(*encode(recognizer, rows), strict=True)
    references = [tokenizer.normalize(texts[place]) for place in places]
    check_references(references)
    beam = decoder if isinstance(decoder, BeamDecoder) else decoder.beam
    trials = tune(beam, [each.log_probs for each in encoded], references, tokenizer, unit=args.unit)
    arguments, best = recognizer.arguments, trials[0]
    untuned = next(trial for trial in trials if trial.weights == SearchWeights())
    options = {"decoding": decoder.name, "beam_size": arguments.beam_size, "blank_penalty": best.weights.blank_penalty}
    if arguments.language_model:
        options["language_model"] = _copied(Path(arguments.language_model), args.model_name_or_path)
        options |= asdict(best.weights)
    rates = {"error_rate": best.error_rate, "error_rate_without": untuned.error_rate, "unit": args.unit}
    if isinstance(decoder, RescoringDecoder):
        decoder = replace(decoder, beam=replace(best.weights.applied(beam), nbest=beam.nbest))
        options["ctc_weight"], rates["error_rate"] = tune_ctc_weight(
            decoder, encoded, references, tokenizer, unit=args.unit
        )
        options["reverse_weight"] = decoder.reverse_weight
        rates["error_rate_of_beam"] = best.error_rate
    measured = {**rates, "utterances": len(places), "dataset": args.dataset_name, "split": args.eval_split_name}
    write_tuned(args.model_name_or_path, options, **measured)
    print_json({**options, **measured, "trials": len(trials)})


def encode(recognizer: Recognizer, rows: datasets.Dataset) -> Iterator[tuple[int, Encoded]]:
    """Yield the place of each readable row and what the decoder needs of it; at most `MAX_FRAMES` in all."""
    rate, waveforms = recognizer.sampling_rate, {}
    limit = MAX_FRAMES * recognizer.seconds_per_frame * rate
    for place, row in enumerate(tqdm(rows, desc="Reading", unit="file")):
        try:
            waveforms[place] = row_recording(row, sampling_rate=rate).waveform
        except AudioError as error:
            tqdm.write(f"skipped: {on_one_line(str(error))}")
            continue
        limit -= len(waveforms[place])
        if limit < 0:
            break
    windows = {place: recognizer.split(waveform) for place, waveform in waveforms.items()}
    parts = [(place, window) for place, own in windows.items() for window in own]
    computed: dict[int, dict[int, Encoded]] = {place: {} for place in windows}
    options = {"batch_seconds": BATCH_SECONDS, "sampling_rate": rate}
    for batch in tqdm(list(batches([window for _, window in parts], **options)), desc="Encoding", unit="batch"):
        for i, encoded in zip(batch, recognizer.encode([parts[i][1] for i in batch]), strict=True):
            computed[parts[i][0]][i] = encoded
    for place, own in computed.items():
        log_probs, states = zip(*(own[i] for i in sorted(own)), strict=True)
        yield place, Encoded(torch.cat(log_probs), None if states[0] is None else torch.cat(states))


def _copied(path: Path, folder: Path) -> str:
    """Copy a language model into the folder of a checkpoint, and return its name."""
    target = folder / path.name
    if path.resolve() != target.resolve():
        with written_beside(target) as partial:
            shutil.copyfile(path, partial)
    return target.name
