"""Collect the files of a publication, without transcripts, names and paths, and the facts of its card."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import check_is_checkpoint, load_checkpoint
from ..files import CURVES, EXPORT_REPORT, LOGS, METRICS, PREDICTIONS, REPORT, TOKENS, TRAINING, WEIGHTS
from ..model import ConformerForCTC
from ..provenance import file_sha256, weights_sha256
from ..scoring.comparison import read_predictions
from ..scoring.report import write_error_report, write_public_error_report
from ..scoring.selection import describe_selection, is_partial
from .arguments import PublishArguments
from .card import CardFacts
from .privacy import public_figures, public_graph, public_graphs, public_log, public_training
from .upload import Files, model_files


def collect_files(args: PublishArguments) -> tuple[Files, CardFacts]:
    """Return the files to upload, except the card, and the facts that the card is written from.

    Raises:
        ValueError: The folder has no weights, no loadable code or no evaluation of its own; a file is missing, damaged
            or of other weights.
    """
    folder = args.model_name_or_path
    check_is_checkpoint(str(folder))
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}: publish the folder of a training run on this machine")
    examples = example_files(args.examples)
    evaluations = own_evaluations(folder, args.evaluations, allow_partial_score=args.allow_partial_score)
    model, processor = load_checkpoint(str(folder), device="cpu")
    files = model_files(folder)
    if isinstance(model, ConformerForCTC) and "modeling_conformer.py" not in files:
        raise ValueError(f"{folder} lacks the code that trust_remote_code loads: save it again with this hf_asr")
    files[METRICS] = _json(evaluations[0])
    report = public_report(folder, evaluations[0], args)
    if report is not None:
        files[REPORT] = report
    graphs = exported_graphs(folder, args.onnx_dir) if args.onnx_dir else []
    if args.onnx_dir:
        files |= export_files(args.onnx_dir, graphs)
    training = own_training(folder)
    if training:
        files |= curves_and_logs(folder, training)
        training = public_training(training)
        files[TRAINING] = _json(training)
    facts = CardFacts(
        hub_model_id=args.hub_model_id,
        model_type=model.config.model_type,
        parameters=model.num_parameters(),
        vocab_size=len(processor.tokenizer),
        sampling_rate=processor.feature_extractor.sampling_rate,
        text_normalization=processor.tokenizer.init_kwargs.get("text_normalization"),
        denoises=getattr(processor.feature_extractor, "denoise", False),
        evaluations=evaluations,
        training=training,
        graphs=graphs,
        files=list(files),
        examples=list(examples),
        language=args.language,
        license=args.license,
    )
    return files | examples, facts


def example_files(paths: Sequence[Path]) -> Files:
    """Return the recordings of --examples by their path in the repository.

    Raises:
        ValueError: A file does not exist, or two files have the same name.
    """
    for path in paths:
        if not path.is_file():
            raise ValueError(f"--examples: {path} does not exist")
    examples: Files = {f"examples/{path.name}": path for path in paths}
    if len(examples) < len(paths):
        raise ValueError("--examples: two files have the same name, but all are uploaded to one folder")
    return examples


def export_files(onnx_dir: Path, graphs: Sequence[dict]) -> Files:
    """Return the files of an export by their path in the repository; `graphs` are those of `exported_graphs`."""
    files: Files = {f"onnx/{graph['file']}": public_graph(onnx_dir / graph["file"]) for graph in graphs}
    files[f"onnx/{EXPORT_REPORT}"] = _json(public_graphs(graphs))
    names = [name for name in ("config.json", TOKENS) if (onnx_dir / name).is_file()]
    return files | {f"onnx/{name}": onnx_dir / name for name in names}


def own_training(folder: Path) -> dict[str, Any] | None:
    """Return training.json of the folder if it describes the folder's weights, else None."""
    training = read_json(folder / TRAINING)
    return training if training and training.get("model_sha256") == weights_sha256(folder) else None


def _json(value: dict) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def public_report(folder: Path, metrics: dict, args: PublishArguments) -> bytes | None:
    """Render report.html from predictions.jsonl: sums only, or with transcripts if the arguments ask for them.

    Returns:
        The page; None if there are no predictions, or if they belong to another evaluation than `metrics`.
    """
    try:
        records = read_predictions(folder)
        counted = [sum(record[name] for record in records) for name in ("substitutions", "deletions", "insertions")]
    except (ValueError, KeyError, TypeError) as error:
        print(f"{REPORT} is not published: {folder} has no predictions to make it from ({error})", file=sys.stderr)
        return None
    expected = [metrics.get(f"cer_{name}") for name in ("substitutions", "deletions", "insertions")]
    if len(records) != metrics["utterances"] or counted != expected:
        print(f"{REPORT} is not published: {folder / PREDICTIONS} is of another evaluation", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / REPORT
        if args.include_transcripts:
            write_error_report(path, metrics, records, None, title=args.hub_model_id)
        else:
            write_public_error_report(path, metrics, records, title=args.hub_model_id)
        return path.read_bytes()


def curves_and_logs(folder: Path, training: dict) -> Files:
    """Return curves.png and the TensorBoard logs that belong to these weights according to training.json."""
    own = set(training.get("artifacts_sha256", []))
    found = [path for path in [*folder.glob(CURVES), *sorted(folder.glob(LOGS))] if path.is_file()]
    files: Files = {}
    logs = 0
    for path in found:
        if file_sha256(path) not in own:
            print(f"{path} is not published: {TRAINING} does not list it as a file of these weights", file=sys.stderr)
        elif path.name == CURVES:
            files[CURVES] = path
        elif (log := public_log(path)) is not None:
            # The name of a log contains the name of the machine, so only its time is kept.
            files[f"runs/{logs}/events.out.tfevents.{path.name.split('.')[3]}"] = log
            logs += 1
    return files


def own_evaluations(
    folder: Path, others: Sequence[Path] = (), *, allow_partial_score: bool = False
) -> list[dict[str, Any]]:
    """Return metrics.json of the folder and of other folders, all of the folder's weights, without paths.

    Raises:
        ValueError: A folder has no evaluation, or one of other weights; or the folder's own evaluation is one of
            selected speakers.
    """
    again = f"python scripts/evaluate.py --model_name_or_path {folder} --dataset_name DATA --output_dir"
    weights, found = weights_sha256(folder), []
    for place in (folder, *others):
        metrics = read_json(place / METRICS)
        if metrics is None:
            raise ValueError(f"{place} has no evaluation, but a card needs measured figures: {again} {place}")
        measured = metrics.get("model_sha256")
        if measured != weights:
            whose = "does not record its weights" if measured is None else "is of other weights"
            raise ValueError(f"{place / METRICS} {whose}: {again} {place}")
        found.append(public_figures(metrics))
    if is_partial(found[0]) and not allow_partial_score:
        raise ValueError(
            f"{folder / METRICS} is the score of {describe_selection(found[0])}, not of the whole split: "
            f"{again} {folder}, or --allow_partial_score"
        )
    return found


def exported_graphs(folder: Path, onnx_dir: Path) -> list[dict]:
    """Return the entries of export_report.json for the ONNX graphs that exist.

    Raises:
        ValueError: There is no report, or a graph is of other weights than the folder's.
    """
    again = f"python scripts/export.py --model_name_or_path {folder} --output_dir {onnx_dir}"
    report = read_json(onnx_dir / EXPORT_REPORT)
    graphs = [graph for graph in (report or {}).get("graphs", []) if (onnx_dir / graph["file"]).suffix == ".onnx"]
    graphs = [graph for graph in graphs if (onnx_dir / graph["file"]).is_file()]
    if not graphs:
        raise ValueError(f"{onnx_dir} has no ONNX graph with an {EXPORT_REPORT}: {again}")
    weights = weights_sha256(folder)
    if strange := [graph["file"] for graph in graphs if graph.get("model_sha256") != weights]:
        raise ValueError(f"{onnx_dir}: {', '.join(strange)} was not exported from these weights: {again}")
    return graphs


def read_json(path: Path) -> dict | None:
    """Return the content of a JSON file, or None if the file does not exist.

    Raises:
        ValueError: The file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
