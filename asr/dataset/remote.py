"""Files that lie elsewhere (http, https, s3 and whatever fsspec knows), fetched whole into the cache folder.

What is fetched stays until the folder holds more than $RILL_CACHE_GB (100): then the files that were used longest ago
go. Processes that want the same file wait for the one that fetches it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import fsspec

from asr.errors import DataError
from asr.paths import cache_folder

__all__ = ["fetch", "is_url", "names", "read", "stamp"]

LOCK = ".lock"
TRIES = 4
WAIT = 0.5
"""Seconds before the second try; each further one waits four times as long."""


def is_url(place: str) -> bool:
    """Whether a place is not a path."""
    return "://" in place


def fetch(place: str) -> Path:
    """A file on this machine with the contents of `place`, which may be a path.

    Raises:
        DataError: it cannot be had, after several tries.
    """
    if not is_url(place):
        return Path(place)
    folder = cache_folder() / "shards"
    target = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}-{place.rpartition('/')[2]}"
    with contextlib.suppress(FileNotFoundError):
        os.utime(target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial, lock = (target.with_name(target.name + end) for end in (".partial", LOCK))
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not target.exists():  # else another process fetched it meanwhile
            _download(place, partial)
            partial.rename(target)
    _make_room(folder, target)
    return target


def _download(place: str, path: Path) -> None:
    for number in range(TRIES):
        try:
            filesystem, inside = _filesystem(place)
            filesystem.get_file(inside, str(path))
        except Exception as error:  # each filesystem has errors of its own
            if isinstance(error, FileNotFoundError) or number + 1 == TRIES:
                raise _unreachable(place, error) from error
            time.sleep(WAIT * 4**number)
        else:
            return


def _make_room(folder: Path, newest: Path) -> None:
    most = float(os.environ.get("RILL_CACHE_GB", 100)) * 1e9
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        if path != newest and path.suffix not in (".partial", LOCK):
            path.unlink(missing_ok=True)  # whoever has it open reads on
            total -= size


def read(place: str) -> bytes | None:
    """The contents of a small file; nothing where there is none."""
    try:
        filesystem, inside = _filesystem(place)
        data: bytes = filesystem.cat_file(inside)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _unreachable(place, error) from error
    return data


def names(place: str) -> list[str] | None:
    """The files in a folder, as places, in order of name; nothing where folders cannot be listed, as on the web."""
    filesystem, inside = _filesystem(place)
    if place.startswith(("http://", "https://")):
        return None
    try:
        found = sorted(str(name).rpartition("/")[2] for name in filesystem.ls(inside, detail=False))
    except Exception as error:
        raise _unreachable(place, error) from error
    return [f"{place}/{name}" for name in found]


def stamp(place: str) -> str | None:
    """What tells one state of a file from another, as far as its server says; nothing where there is no such file."""
    try:
        filesystem, inside = _filesystem(place)
        about = filesystem.info(inside)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _unreachable(place, error) from error
    return " ".join(str(about.get(key)) for key in ("size", "ETag", "mtime", "created"))


def _filesystem(place: str) -> tuple[Any, str]:
    try:
        filesystem, inside = fsspec.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{place}: {error}; install what fsspec needs for it, such as `pip install s3fs`"
        ) from error
    return filesystem, inside


def _unreachable(place: str, error: Exception) -> DataError:
    return DataError(f"{place} cannot be read ({type(error).__name__}: {error}); is the address right?")
