"""A checkpoint becomes a page on the Hub: weights, the code that loads them, and a card of what was measured.

python scripts/publish.py --model_name_or_path runs/mine --hub_model_id owner/name [--onnx_dir D] [--create_space]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationDelete

from ..checkpoint import check_is_checkpoint, load_checkpoint
from ..console import command
from ..files import CURVES, LOGS, WEIGHTS, written_beside
from ..model import ConformerForCTC
from ..provenance import file_sha256, weights_sha256
from ..scoring.compare import read_predictions
from ..scoring.report import write_public_report, write_report
from ..scoring.selection import describe_selection, is_partial
from .card import CardFacts, model_card
from .ledger import NAME as LEDGER
from .ledger import ledger, written_before
from .privacy import (
    public_figures,
    public_graph,
    public_graphs,
    public_log,
    public_training,
)
from .space import space_files
from .upload import Files, additions, check_is_id, hub_errors, model_files, open_repository


@dataclass
class PublishArguments:
    """See `main`'s --help; `token` and `revision` are the Trainer's."""

    model_name_or_path: Path
    hub_model_id: str
    public: bool = False
    onnx_dir: Path | None = None
    evaluations: Sequence[Path] = ()
    examples: Sequence[Path] = ()
    language: Sequence[str] | None = None
    license: str | None = None
    create_space: bool = False
    space_id: str | None = None
    include_transcripts: bool = False
    allow_partial_score: bool = False
    dry_run: bool = False
    token: str | None = None
    revision: str | None = None


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """`scripts/publish.py` and `hf-asr publish`."""
    parser = argparse.ArgumentParser(prog="publish", description="Publishes a checkpoint on the Hub, privately.")
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--hub_model_id", required=True, help="owner/name")
    parser.add_argument("--public", action="store_true", help="for everybody to see")
    parser.add_argument("--onnx_dir", type=Path, help="what scripts/export.py wrote from this checkpoint")
    parser.add_argument("--evaluations", type=Path, nargs="+", default=[], help="more folders of scripts/evaluate.py")
    parser.add_argument(
        "--examples", type=Path, nargs="+", default=[], help="recordings to upload, for visitors to try"
    )
    parser.add_argument("--language", nargs="+", help="codes; told by the text normalisation if that is en, zh, zh-en")
    parser.add_argument("--license", help="apache-2.0, cc-by-4.0, …; not stated if not given")
    parser.add_argument("--create_space", action="store_true", help="upload the demo as well")
    parser.add_argument("--space_id", help="owner/name of the demo; that of the model with -demo if not given")
    parser.add_argument(
        "--include_transcripts",
        action="store_true",
        help="report.html with its transcripts, ids and speakers, for everybody who sees the page; sums alone if not",
    )
    parser.add_argument(
        "--allow_partial_score",
        action="store_true",
        help="publish although the model's own score is of chosen speakers only; the card says of how many",
    )
    parser.add_argument("--dry_run", action="store_true", help="write the card, and list what would go")
    publish(PublishArguments(**vars(parser.parse_args(argv))))


def publish(args: PublishArguments) -> None:
    """Writes the card into the folder and uploads it with the rest, in one commit.

    Raises:
        ValueError: Something that is no checkpoint of ours or has no evaluation of its own, an id that is none, or a
            Hub that refuses or cannot be reached. Nothing was uploaded then.
    """
    space_id = args.space_id or f"{args.hub_model_id}-demo"
    for name in (args.hub_model_id, space_id):
        check_is_id(name)
    files = gather(args)
    demo = space_files(args.hub_model_id) if args.create_space else {}
    if args.dry_run:
        for repository, content in ((args.hub_model_id, files), (space_id, demo)):
            for name in sorted(content):
                print(f"{repository}  {name}")
        visibility = "public" if args.public else "private"
        print(f"{args.model_name_or_path / 'README.md'} is the card; nothing was uploaded ({visibility})")
        return
    api = open_repository(args.hub_model_id, public=args.public, token=args.token)
    with hub_errors(args.hub_model_id):
        there = api.list_repo_files(args.hub_model_id, revision=args.revision)
        # What an earlier publication left and this one lacks would be of other weights.
        stale = written_before(api, args.hub_model_id, there, revision=args.revision) - set(files)
        commit = api.create_commit(
            args.hub_model_id,
            [*additions(files), *map(CommitOperationDelete, sorted(stale))],
            commit_message="Model, code and card by hf_asr",
            revision=args.revision,
        )
    print(f"{commit.repo_url}: {len(files)} files")
    if demo:
        create_space(space_id, demo, args)


def create_space(space_id: str, files: Files, args: PublishArguments) -> None:
    """The demo of the model, as private as it."""
    api = open_repository(space_id, public=args.public, token=args.token, kind="space")
    with hub_errors(space_id):
        api.add_space_variable(space_id, "HF_ASR_MODEL", args.hub_model_id)
        commit = api.create_commit(space_id, additions(files), commit_message="Demo by hf_asr", repo_type="space")
    print(f"{commit.repo_url}: {len(files)} files")
    if not args.public:
        print(f"the model is private: give the Space a secret HF_TOKEN that may read {args.hub_model_id}")


def gather(args: PublishArguments) -> Files:
    """Everything that is to be uploaded, without transcripts, names and paths; writes the card into the folder."""
    folder = args.model_name_or_path
    check_is_checkpoint(str(folder))
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}: publish the folder of a training run, as it is on this machine")
    for path in args.examples:
        if not path.is_file():
            raise ValueError(f"--examples: {path} is not there")
    examples = {f"examples/{path.name}": path for path in args.examples}
    if len(examples) < len(args.examples):
        raise ValueError("--examples: two files have the same name, and there is one folder for them")
    options = {"allow_partial_score": args.allow_partial_score}
    evaluations = own_evaluations(folder, args.evaluations, **options)
    model, processor = load_checkpoint(str(folder), device="cpu")
    files = model_files(folder)
    if isinstance(model, ConformerForCTC) and "modeling_conformer.py" not in files:
        raise ValueError(f"{folder} lacks the code that trust_remote_code loads: save it again with this hf_asr")
    files["metrics.json"] = _json(evaluations[0])
    report = public_report(folder, evaluations[0], args)
    if report is not None:
        files["report.html"] = report
    graphs = exported_graphs(folder, args.onnx_dir) if args.onnx_dir else []
    if args.onnx_dir:
        files |= {f"onnx/{graph['file']}": public_graph(args.onnx_dir / graph["file"]) for graph in graphs}
        files["onnx/export_report.json"] = _json(public_graphs(graphs))
        names = [name for name in ("config.json", "tokens.txt") if (args.onnx_dir / name).is_file()]
        files |= {f"onnx/{name}": args.onnx_dir / name for name in names}
    training = read_json(folder / "training.json")
    if training and training.get("model_sha256") != weights_sha256(folder):
        training = None  # how other weights came to be
    if training:
        files |= curves_and_logs(folder, training)
        training = public_training(training)
        files["training.json"] = _json(training)
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
    card = folder / "README.md"
    with written_beside(card) as partial:
        model_card(facts).save(partial)
    files |= examples | {card.name: card}
    return files | {LEDGER: ledger(files)}


def _json(value: dict) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def public_report(folder: Path, metrics: dict, args: PublishArguments) -> bytes | None:
    """Make report.html anew from predictions.jsonl: sums alone, or what was asked for; None of another evaluation."""
    try:
        records = read_predictions(folder)
        counted = [sum(record[name] for record in records) for name in ("substitutions", "deletions", "insertions")]
    except (ValueError, KeyError, TypeError) as error:
        print(f"no report.html goes: {folder} has no predictions to make it from ({error})", file=sys.stderr)
        return None
    expected = [metrics.get(f"cer_{name}") for name in ("substitutions", "deletions", "insertions")]
    if len(records) != metrics["utterances"] or counted != expected:
        print(f"no report.html goes: {folder / 'predictions.jsonl'} is of another evaluation", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.html"
        if args.include_transcripts:
            write_report(path, metrics, records, None, title=args.hub_model_id)
        else:
            write_public_report(path, metrics, records, title=args.hub_model_id)
        return path.read_bytes()


def curves_and_logs(folder: Path, training: dict) -> Files:
    """Return curves.png and the logs of TensorBoard that training.json says are of these weights."""
    own = set(training.get("artifacts_sha256", []))
    found = [path for path in [*folder.glob(CURVES), *sorted(folder.glob(LOGS))] if path.is_file()]
    files: Files = {}
    logs = 0
    for path in found:
        if file_sha256(path) not in own:
            print(f"{path} does not go: training.json does not say that it is of these weights", file=sys.stderr)
        elif path.name == CURVES:
            files[CURVES] = path
        elif (log := public_log(path)) is not None:
            # Their own names hold that of the machine.
            files[f"runs/{logs}/events.out.tfevents.{path.name.split('.')[3]}"] = log
            logs += 1
    return files


def own_evaluations(
    folder: Path, others: Sequence[Path] = (), *, allow_partial_score: bool = False
) -> list[dict[str, Any]]:
    """Return metrics.json of the folder and of others, all of these weights, without paths.

    Raises:
        ValueError: The folder has none or one of chosen speakers only, or one is of other weights.
    """
    again = f"python scripts/evaluate.py --model_name_or_path {folder} --dataset_name DATA --output_dir"
    weights, found = weights_sha256(folder), []
    for place in (folder, *others):
        metrics = read_json(place / "metrics.json")
        if metrics is None:
            raise ValueError(f"{place} has no evaluation, and a card tells what was measured: {again} {place}")
        measured = metrics.get("model_sha256")
        if measured != weights:
            whose = "does not say of which weights it is" if measured is None else "is of other weights"
            raise ValueError(f"{place / 'metrics.json'} {whose}: {again} {place}")
        found.append(public_figures(metrics))
    if is_partial(found[0]) and not allow_partial_score:
        raise ValueError(
            f"{folder / 'metrics.json'} is the score of {describe_selection(found[0])}, not of the whole split: "
            f"{again} {folder}, or --allow_partial_score"
        )
    return found


def exported_graphs(folder: Path, onnx_dir: Path) -> list[dict]:
    """Of export_report.json, the ONNX graphs of these weights that are there.

    Raises:
        ValueError: There is no report, or a graph is of other weights.
    """
    again = f"python scripts/export.py --model_name_or_path {folder} --output_dir {onnx_dir}"
    report = read_json(onnx_dir / "export_report.json")
    graphs = [graph for graph in (report or {}).get("graphs", []) if (onnx_dir / graph["file"]).suffix == ".onnx"]
    graphs = [graph for graph in graphs if (onnx_dir / graph["file"]).is_file()]
    if not graphs:
        raise ValueError(f"{onnx_dir} has no ONNX graph with an export_report.json: {again}")
    weights = weights_sha256(folder)
    if strange := [graph["file"] for graph in graphs if graph.get("model_sha256") != weights]:
        raise ValueError(f"{onnx_dir}: {', '.join(strange)} was not exported from these weights: {again}")
    return graphs


def read_json(path: Path) -> dict | None:
    """None if it is not there.

    Raises:
        ValueError: It is no JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
