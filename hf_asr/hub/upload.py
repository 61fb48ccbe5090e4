"""Upload files to the Hub in plain commits, and turn the Hub's errors into one line."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..files import WEIGHTS
from .privacy import CONFIGURATIONS, public_configuration

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
    with hub_errors(repo_id):
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
    """Return what is to be committed; configurations lose what they say of this machine.

    Small files and bytes are taken as they are now, others read as they are uploaded.
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
