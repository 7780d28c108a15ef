"""Corpora in tar files, on disk or elsewhere: Lhotse Shar, and the layout of WebDataset.

Shar is a folder with `cuts.000000.jsonl.gz`, `recording.000000.tar` and so on; `asr shards` writes it. WebDataset's
tars hold `KEY.flac` (or another kind of audio) beside `KEY.txt` or `KEY.json` with a "text". A shard is fetched whole
when the first of its utterances is read, and each utterance is one read at a known place in it: no order is imposed,
so that batches are planned, and resumed, as for single files.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.shar.utils import fill_shar_placeholder

from asr.dataset import remote
from asr.dataset.index import Line, stamp_of
from asr.errors import DataError
from asr.paths import AUDIO_SUFFIXES

__all__ = ["SUMMARY", "Shards", "is_shards"]

SUMMARY = "cuts.count.json"
"""How many shards there are, in a folder that `asr shards` has written: the web cannot list folders. Lhotse takes the
first part of every name for a field, and passes over this name."""
TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
SOUND = re.compile("|".join(re.escape(suffix) + "$" for suffix in sorted(AUDIO_SUFFIXES)), re.IGNORECASE)


def is_shards(place: str) -> bool:
    """Whether a place is not one manifest: a folder, tars by name or by `{000..127}`, or anything elsewhere."""
    return place.endswith(".tar") or remote.is_url(place) or Path(place).is_dir()


class Shards:
    """A source of cuts (`asr.dataset.index.Source`) whose audio lies in tars.

    place: a folder or its URL; or tars, `corpus/train-{000..127}.tar`.

    Raises:
        DataError: there are none, or they cannot be reached.
    """

    sharded = True
    text: Path | None = None
    folder: Path | None = None

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self.manifests, self.tars = _find(self.place)

    def files(self) -> list[str]:
        return self.manifests or self.tars

    def stamp(self) -> str:
        files = self.files()
        if remote.is_url(self.place):  # asking for each of thousands would take longer than to train on them
            return f"{files} {remote.stamp(files[0])} {remote.stamp(files[-1])}"
        return " ".join(stamp_of(Path(file)) for file in files)

    def lines(self) -> Iterator[Line]:
        for shard, file in enumerate(self.files()):
            texts = _cuts_of(file) if self.manifests else _cuts_in(file)
            for number, text in enumerate(texts, 1):
                yield Line(shard, number, 0, text)

    def with_audio(self, cut: Cut, shard: int) -> Cut:
        """The cut with its audio in memory. Raises DataError where the shard does not have it."""
        tar = self.tars[shard]
        data = _member(tar, cut.id)
        fill_shar_placeholder(cut, data, tarpath=tar, field="recording")
        return cut


def _find(place: str) -> tuple[list[str], list[str]]:
    """Manifests and tars of Shar, as many; or no manifests, and the tars of a WebDataset."""
    if place.endswith(".tar"):
        return [], list(_expanded(place))
    if remote.is_url(place):
        summary = remote.read(f"{place}/{SUMMARY}")
        if summary is not None:
            found = [f"{place}/cuts.{i:06}.jsonl.gz" for i in range(json.loads(summary)["shards"])]
        elif (listed := remote.names(place)) is not None:
            found = listed
        else:
            found = _probed(place)
    else:
        found = sorted(str(path) for path in Path(place).iterdir())
    manifests = [name for name in found if re.search(r"/cuts\.\d+\.jsonl(\.gz)?$", name)]
    tars = [re.sub(r"/cuts\.(\d+)\.jsonl(\.gz)?$", r"/recording.\1.tar", name) for name in manifests]
    tars = tars or [name for name in found if name.endswith(".tar")]
    if not tars:
        raise DataError(
            f"{place} holds no shards: neither cuts.000000.jsonl.gz (`asr shards` writes them) nor .tar files"
        )
    return manifests, tars


def _probed(place: str) -> list[str]:
    found: list[str] = []
    while remote.stamp(name := f"{place}/cuts.{len(found):06}.jsonl.gz") is not None:
        found.append(name)
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """`a-{08..11}.tar` -> a-08.tar, a-09.tar, a-10.tar, a-11.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        yield pattern
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from _expanded(pattern[: match.start()] + f"{number:0{len(match[1])}}" + pattern[match.end() :])


def _cuts_of(manifest: str) -> Iterator[bytes]:
    """Lines of a Shar's manifest."""
    data = remote.read(manifest) if remote.is_url(manifest) else Path(manifest).read_bytes()
    if data is None:
        raise DataError(f"{manifest} is missing among the shards")
    try:
        text = gzip.decompress(data) if manifest.endswith(".gz") else data
    except (OSError, EOFError) as error:
        raise DataError(f"{manifest} cannot be read: {error}; write the shards again") from error
    return (line + b"\n" for line in text.split(b"\n") if line.strip())


def _cuts_in(tar: str) -> Iterator[bytes]:
    """A line for each recording in a tar of a WebDataset, as if Shar had it."""
    path = remote.fetch(tar)
    members = _members(path, 0 if remote.is_url(tar) else path.stat().st_mtime_ns)
    with path.open("rb") as file:
        for key, (name, start, size) in members.audio.items():
            file.seek(start)
            info = soundfile.info(io.BytesIO(file.read(size)))
            recording = Recording(
                id=key,
                sources=[AudioSource(type="shar", channels=list(range(info.channels)), source="")],
                sampling_rate=info.samplerate,
                num_samples=info.frames,
                duration=info.frames / info.samplerate,
            )
            text = _text(file, members.texts.get(key), f"{tar}, {name}")
            segment = SupervisionSegment(key, key, 0.0, recording.duration, text=text)
            cut = MonoCut(key, 0.0, recording.duration, 0, recording=recording, supervisions=[segment])
            yield json.dumps(cut.to_dict()).encode() + b"\n"


def _text(file: io.BufferedReader, member: tuple[str, int, int] | None, where: str) -> str:
    if member is None:
        raise DataError(f"{where} has no .txt or .json beside it with its text")
    name, start, size = member
    file.seek(start)
    text = file.read(size).decode("utf-8")
    if not name.endswith(".json"):
        return text.strip()
    item = json.loads(text)
    for key in TEXT_KEYS:
        if isinstance(item.get(key), str):
            return str(item[key])
    raise DataError(f"{where}: its .json has none of the keys {', '.join(TEXT_KEYS)}")


class _Members:
    """Where the audio and the texts of each key stand in a tar: (name, first byte, size)."""

    def __init__(self, path: Path) -> None:
        self.audio: dict[str, tuple[str, int, int]] = {}
        self.texts: dict[str, tuple[str, int, int]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    key, dot, suffix = member.name.rpartition(".")
                    kept = self.texts if suffix in ("txt", "json") else self.audio
                    if dot and member.isfile() and (kept is self.texts or SOUND.search(member.name)):
                        kept[key] = (member.name, member.offset_data, member.size)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{path} is no whole tar file ({error}); fetch or write it again") from error


@lru_cache(maxsize=64)
def _members(path: Path, _changed: int) -> _Members:
    return _Members(path)


def _member(tar: str, key: str) -> bytes:
    path = remote.fetch(tar)
    try:
        file = path.open("rb")
    except FileNotFoundError:  # room was made for others
        path = remote.fetch(tar)
        file = path.open("rb")
    with file:
        # What was fetched is named after its address, and its time is that of its last use.
        found = _members(path, 0 if remote.is_url(tar) else path.stat().st_mtime_ns).audio.get(key)
        if found is None:
            raise DataError(f"{tar} has no audio of {key}")
        file.seek(found[1])
        return file.read(found[2])
