"""Upload files to the Hub in plain commits, and turn the Hub's errors into one line."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..files import WEIGHTS
from .ledger import written_before
from .privacy import CONFIGURATIONS, public_configuration

Files = dict[str, Path | bytes]  # content by path in the repository

# No other file of a run's folder is uploaded: checkpoints, optimiser, pickles, transcripts, names of recordings.
MODEL_FILES = (
    "config.json",
    WEIGHTS,
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*_conformer.py",
)


def open_repository(repo_id: str, *, public: bool, token: str | None = None, kind: str = "model") -> HfApi:
    """Create the repository if it does not exist, and return an API object with the token.

    Args:
        public: Whether a new repository is public, and whether an existing one may be.
        kind: "model" or "space".

    Raises:
        ValueError: There is no token, the Hub refuses it or cannot be reached, or the existing repository is public
            although `public` is not set.
    """
    check_is_id(repo_id)
    token = token or get_token()
    if token is None:
        raise ValueError("no token for the Hub: run `hf auth login` or set HF_TOKEN, with a token that may write")
    api = HfApi(token=token, library_name="hf_asr")
    with hub_errors(repo_id):
        sdk = "gradio" if kind == "space" else None
        api.create_repo(repo_id, private=not public, exist_ok=True, repo_type=kind, space_sdk=sdk)
        is_private = api.repo_info(repo_id, repo_type=kind).private
    if not is_private and not public:
        raise ValueError(f"{repo_id} exists already and is public: give --public, or another id")
    if is_private and public:
        print(f"{repo_id} exists already and stays private: change that in its settings on the Hub", file=sys.stderr)
    return api


def check_is_id(name: str) -> None:
    """Raise ValueError if a name is not of the form owner/name."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ValueError(f"{name!r} is not an id of the Hub: owner/name, of letters, digits, '-', '_' and '.'")


def upload_model(
    repo_id: str, files: Files, *, public: bool, token: str | None = None, revision: str | None = None
) -> str:
    """Upload files to a model repository in one commit, and return the address of the repository.

    The commit also deletes what an earlier publication wrote and `files` lacks, because that describes other weights.

    Raises:
        ValueError: As for `open_repository`.
    """
    api = open_repository(repo_id, public=public, token=token)
    with hub_errors(repo_id):
        existing = api.list_repo_files(repo_id, revision=revision)
        stale = written_before(api, repo_id, existing, revision=revision) - set(files)
        commit = api.create_commit(
            repo_id,
            [*additions(files), *map(CommitOperationDelete, sorted(stale))],
            commit_message="Model, code and card by hf_asr",
            revision=revision,
        )
    return str(commit.repo_url)


def upload_space(space_id: str, files: Files, *, model_id: str, public: bool, token: str | None = None) -> str:
    """Upload the demo of a model as a Space, and return the address of the Space.

    Raises:
        ValueError: As for `open_repository`.
    """
    api = open_repository(space_id, public=public, token=token, kind="space")
    with hub_errors(space_id):
        api.add_space_variable(space_id, "HF_ASR_MODEL", model_id)
        commit = api.create_commit(space_id, additions(files), commit_message="Demo by hf_asr", repo_type="space")
    return str(commit.repo_url)


def additions(files: Files) -> list[CommitOperationAdd]:
    """Return the additions of a commit; configurations lose their paths of this machine.

    Small files and bytes are read now, large files while they are uploaded.
    """
    return [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=_public(name, source))
        for name, source in sorted(files.items())
    ]


def _public(name: str, source: Path | bytes) -> Path | bytes:
    if PurePosixPath(name).name not in CONFIGURATIONS:
        return source
    return public_configuration(source if isinstance(source, bytes) else source.read_bytes())


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub into a ValueError with a message of one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = {
            401: "it does not know the token: run `hf auth login` again, or set another HF_TOKEN",
            403: "the token may not write there: use one with write access, or an owner that it belongs to",
        }.get(status, error.server_message or str(error).splitlines()[0])
        raise ValueError(f"the Hub refuses {repo_id} ({status}): {reason}") from error
    except ValueError as error:  # metadata of the card that the Hub does not know, such as a licence
        raise ValueError(f"the Hub refuses {repo_id}: {' '.join(str(error).split())}") from error
    except (HTTPError, OfflineModeIsEnabled) as error:  # of httpx or httpx2, whichever huggingface_hub uses
        raise ValueError(f"the Hub cannot be reached ({error}): try again with a network connection") from error


def model_files(folder: Path) -> Files:
    """Return the files of a checkpoint that `from_pretrained(…, trust_remote_code=True)` needs."""
    return {path.name: path for pattern in MODEL_FILES for path in folder.glob(pattern)}
