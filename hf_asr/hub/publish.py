"""A checkpoint becomes a page on the Hub: weights, the code that loads them, and a card of what was measured.

python scripts/publish.py --model_name_or_path runs/mine --hub_model_id owner/name [--onnx_dir D] [--create_space]
"""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..checkpoint import check_is_checkpoint, load_checkpoint
from ..files import written_beside
from ..model import ConformerForCTC
from ..provenance import WEIGHTS, weights_sha256
from .card import CardFacts, model_card
from .space import space_files

Files = dict[str, Path | bytes]  # what goes to the Hub, by its path there

# Everything else in the folder of a run stays: checkpoints, optimiser, pickles, transcripts and what names recordings.
MODEL_FILES = (
    "config.json",
    WEIGHTS,
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*_conformer.py",
)
MEASUREMENTS = ("metrics.json", "training.json", "curves.png")
OURS = re.compile(r"(onnx|runs|examples)/|[^/]+_conformer\.py$|(training\.json|curves\.png|report\.html)$")
PLAYER = re.compile(r"<audio\b[^>]*></audio>")  # report.html's players, with the recordings inside


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
    dry_run: bool = False
    token: str | None = None
    revision: str | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Errors a person can mend end in one line."""
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
    parser.add_argument("--dry_run", action="store_true", help="write the card, and list what would go")
    args = PublishArguments(**vars(parser.parse_args(argv)))
    try:
        publish(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


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
    with _hub_errors(args.hub_model_id):
        there = api.list_repo_files(args.hub_model_id, revision=args.revision)
        # What an earlier publication left and this one lacks would be of other weights.
        stale = [CommitOperationDelete(name) for name in there if OURS.match(name) and name not in files]
        commit = api.create_commit(
            args.hub_model_id,
            [*additions(files), *stale],
            commit_message="Model, code and card by hf_asr",
            revision=args.revision,
        )
    print(f"{commit.repo_url}: {len(files)} files")
    if demo:
        create_space(space_id, demo, args)


def create_space(space_id: str, files: Files, args: PublishArguments) -> None:
    """The demo of the model, as private as it."""
    api = open_repository(space_id, public=args.public, token=args.token, kind="space")
    with _hub_errors(space_id):
        api.add_space_variable(space_id, "HF_ASR_MODEL", args.hub_model_id)
        commit = api.create_commit(space_id, additions(files), commit_message="Demo by hf_asr", repo_type="space")
    print(f"{commit.repo_url}: {len(files)} files")
    if not args.public:
        print(f"the model is private: give the Space a secret HF_TOKEN that may read {args.hub_model_id}")


def open_repository(repo_id: str, *, public: bool, token: str | None = None, kind: str = "model") -> HfApi:
    """Creates the repository if it is not there, and gives what uploads to it.

    Raises:
        ValueError: No token, a Hub that refuses it or cannot be reached, or a public repository and `public` is not.
    """
    check_is_id(repo_id)
    token = token or get_token()
    if token is None:
        raise ValueError("no token for the Hub: run `hf auth login`, or set HF_TOKEN, with one that may write")
    api = HfApi(token=token, library_name="hf_asr")
    with _hub_errors(repo_id):
        sdk = "gradio" if kind == "space" else None
        api.create_repo(repo_id, private=not public, exist_ok=True, repo_type=kind, space_sdk=sdk)
        is_private = api.repo_info(repo_id, repo_type=kind).private
    if not is_private and not public:
        raise ValueError(f"{repo_id} is there already and everybody can see it: --public, or another id")
    if is_private and public:
        print(f"{repo_id} was there already and stays private: its settings on the Hub change that", file=sys.stderr)
    return api


def check_is_id(name: str) -> None:
    """Raises ValueError if it is not owner/name."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ValueError(f"{name!r} is no id of the Hub: owner/name, of letters, digits, '-', '_' and '.'")


def additions(files: Files) -> list[CommitOperationAdd]:
    """Small files and bytes are taken as they are now, others read as they are uploaded."""
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in sorted(files.items())]


@contextlib.contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """The Hub's errors as one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        told = {
            401: "it does not know the token: `hf auth login` again, or another HF_TOKEN",
            403: "the token may not write there: take one with write access, or an owner that it belongs to",
        }.get(status, error.server_message or str(error).splitlines()[0])
        raise ValueError(f"the Hub refuses {repo_id} ({status}): {told}") from error
    except ValueError as error:  # metadata of the card, a licence for instance, that it does not know
        raise ValueError(f"the Hub refuses {repo_id}: {' '.join(str(error).split())}") from error
    except (HTTPError, OfflineModeIsEnabled) as error:  # of httpx or httpx2, whichever huggingface_hub uses
        raise ValueError(f"the Hub cannot be reached ({error}): try again where there is a network") from error


def model_files(folder: Path) -> Files:
    """What `from_pretrained(…, trust_remote_code=True)` needs of a checkpoint."""
    return {path.name: path for pattern in MODEL_FILES for path in folder.glob(pattern)}


def gather(args: PublishArguments) -> Files:
    """Everything that is to be uploaded; writes the card, README.md, into the folder."""
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
    evaluations = own_evaluations(folder, args.evaluations)
    model, processor = load_checkpoint(str(folder), device="cpu")
    files = model_files(folder)
    if isinstance(model, ConformerForCTC) and "modeling_conformer.py" not in files:
        raise ValueError(f"{folder} lacks the code that trust_remote_code loads: save it again with this hf_asr")
    files |= {name: folder / name for name in MEASUREMENTS if (folder / name).is_file()}
    report = folder / "report.html"
    if report.is_file():
        files[report.name] = PLAYER.sub("", report.read_text(encoding="utf-8")).encode()
    # their own names hold that of the machine
    logs = sorted(folder.glob("runs/**/events.out.tfevents.*"))
    files |= {f"runs/{i}/events.out.tfevents.{path.name.split('.')[3]}": path for i, path in enumerate(logs)}
    graphs = exported_graphs(folder, args.onnx_dir) if args.onnx_dir else []
    if args.onnx_dir:
        names = [*(graph["file"] for graph in graphs), "export_report.json", "config.json", "tokens.txt"]
        files |= {f"onnx/{name}": args.onnx_dir / name for name in names if (args.onnx_dir / name).is_file()}
    training = read_json(folder / "training.json")
    if training and training.get("model_sha256") != weights_sha256(folder):
        training = None  # how other weights came to be
        files.pop("training.json")
        files.pop("curves.png", None)
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
    return files | examples | {card.name: card}


def own_evaluations(folder: Path, others: Sequence[Path] = ()) -> list[dict]:
    """metrics.json of the folder and of others, all of these weights.

    Raises:
        ValueError: The folder has none, or one is of other weights.
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
        found.append(metrics)
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
