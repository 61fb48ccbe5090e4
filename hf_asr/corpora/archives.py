"""Download and extract archives: what is interrupted goes on later, and what is damaged leaves nothing behind."""

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from tqdm.auto import tqdm

from .corpus import Archive

NOT_SATISFIABLE = 416  # the status of a range that begins behind the end of the file
BLOCK = 1 << 20  # bytes


def download(archive: Archive, folder: Path) -> Path:
    """Return the path of an archive in a folder, after downloading it if it is not there.

    The bytes go to a `.partial` file, which a later call continues, and which is renamed when its checksum is right.

    Raises:
        OSError: The archive cannot be downloaded, now or at all.
        ValueError: It is not the published file.
    """
    path, partial = folder / archive.name, folder / f"{archive.name}.partial"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "ab") as file:
            # It tries again five times if nothing arrives.
            http_get(archive.url, file, resume_size=file.tell(), displayed_filename=archive.name)
    except Exception as error:  # the client raises many different classes
        size = partial.stat().st_size
        if not size:
            partial.unlink()
        if not _is_complete(error, size):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise OSError(f"{archive.url}: {reason}") from error
    if archive.md5 is not None and (found := _md5(partial)) != archive.md5:
        partial.unlink()
        raise ValueError(f"{archive.url} arrived with the MD5 {found} instead of {archive.md5}: deleted, try again")
    partial.replace(path)
    return path


def _is_complete(error: Exception, size: int) -> bool:
    """Return whether the server refused to send more because all bytes are there already."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code != NOT_SATISFIABLE:
        return False
    return error.response.headers.get("Content-Range") == f"bytes */{size}"


def _md5(path: Path) -> str:
    """Return the MD5 of a file in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, _progress(file, f"Checking {path.name}") as blocks:
        while block := blocks.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _progress(file: BinaryIO, description: str | None) -> contextlib.AbstractContextManager[BinaryIO]:
    """Return a file with a bar of the bytes that are read from it, or without a bar if it has no description."""
    total = os.fstat(file.fileno()).st_size
    return tqdm.wrapattr(file, "read", total=total, desc=description, leave=False, disable=description is None)


def extract(path: Path, folder: Path, *, show_progress: bool = True) -> None:
    """Extract a compressed tar archive into a folder, completely or not at all.

    Raises:
        ValueError: The archive is damaged or cut short, or a member of it would be written outside the folder.
    """
    partial = folder / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        description = f"Extracting {path.name}" if show_progress else None
        with contextlib.ExitStack() as stack:
            blocks = stack.enter_context(_progress(stack.enter_context(open(path, "rb")), description))
            content = stack.enter_context(gzip.open(blocks))
            stack.enter_context(tarfile.open(fileobj=content, mode="r:")).extractall(partial, filter="data")
            # tarfile takes a damaged header for the end. Reading to the end compares the checksum of gzip.
            while content.read(BLOCK):
                pass
        _merge(partial, folder)
    except tarfile.FilterError as error:
        raise ValueError(f"{path} is refused: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): fetch it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    """Move what a folder contains into another; a folder is moved as a whole if it is not there yet."""
    for entry in source.iterdir():
        place = target / entry.name
        if place.is_dir() and entry.is_dir() and not entry.is_symlink():
            _merge(entry, place)
        else:
            entry.replace(place)
