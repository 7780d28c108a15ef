"""From a corpus on disk to Lhotse cuts: what the recipes' `prepare.py` share.

A recipe reads its corpus' own layout into cuts (one recording, one supervision each), holds some speakers out
for validation, and writes `train.jsonl.gz`, `dev.jsonl.gz` and `test.jsonl.gz` with absolute paths.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut

from asr.errors import DataError, RillError

__all__ = [
    "Utterance",
    "audio_files",
    "command_line",
    "from_kaldi",
    "from_table",
    "hold_out",
    "read_lines",
    "require",
    "speaker_of",
    "to_cuts",
    "write_splits",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One line of a corpus: a whole audio file and what is said in it.

    `where` names the line that the utterance comes from, for messages: "text, line 7".
    """

    id: str
    path: Path
    text: str
    speaker: str
    where: str = ""


def require(corpus: Path, *parts: str, name: str) -> None:
    """Check that `corpus` is the corpus called `name`: that the files and folders `parts` are in it.

    Raises:
        DataError: the directory, or the first missing part of it, by name.
    """
    if not corpus.is_dir():
        raise DataError(
            f"{corpus} is not a directory: give the directory of the {name} corpus, which holds {', '.join(parts)}"
        )
    for part in parts:
        if not (corpus / part).exists():
            raise DataError(
                f"{corpus} is not the {name} corpus: {part} is missing in it (expected {', '.join(parts)}); "
                "give the directory that holds them"
            )


def read_lines(path: Path, *, growing: bool = False) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank of a UTF-8 file; of whole lines only where it
    is `growing`.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if growing:
        text = text[: text.rfind("\n") + 1]
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def from_table(
    table: Path,
    *,
    root: Path | None = None,
    speaker: Callable[[str], str] | None = None,
    growing: bool = False,
) -> list[Utterance]:
    """Read a tab-separated table with a header that has at least the columns `path` and `text`.

    Optional columns are `id` (else the path without its suffix, "/" as "-") and `speaker` (else
    `speaker(path)`, else "unknown"). Paths are relative to `root`, by default the table's folder. A last line
    without its newline is left out where the table is still `growing`.

    Raises:
        DataError: a missing column, or a line with too few fields, by its number.
    """
    root = table.parent if root is None else root
    lines = read_lines(table, growing=growing)
    columns = next(lines, (1, ""))[1].split("\t")
    if not {"path", "text"} <= set(columns):
        raise DataError(f"{table}, line 1: expected a header with the columns path and text, found {columns}")
    utterances = []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise DataError(
                f"{table}, line {number}: {len(fields)} fields, but the header names {len(columns)}: {columns}"
            )
        row = dict(zip(columns, fields, strict=True))
        path = row["path"]
        utterances.append(
            Utterance(
                id=row.get("id") or os.path.splitext(path)[0].strip("/").replace("/", "-"),
                path=root / path,
                text=row["text"],
                speaker=row.get("speaker") or (speaker(path) if speaker else "unknown"),
                where=f"{table}, line {number}",
            )
        )
    return utterances


def from_kaldi(directory: Path, *, root: Path | None = None) -> list[Utterance]:
    """Read a Kaldi data directory without `segments`: `wav.scp`, `text`, and `utt2spk` where there is one.

    Paths in `wav.scp` are relative to `root`, by default the working directory, as in Kaldi.

    Raises:
        DataError: a missing file, a line without its second field, an id of `wav.scp` without text, a piped
            command or `segments` (which Lhotse's own `lhotse kaldi import` reads).
    """
    require(directory, "wav.scp", "text", name="Kaldi data directory")
    if (directory / "segments").exists():
        raise DataError(
            f"{directory / 'segments'} is not read here: convert the directory with `lhotse kaldi import`"
        )
    texts = _two_columns(directory / "text", empty=True)
    speakers = _two_columns(directory / "utt2spk") if (directory / "utt2spk").exists() else {}
    utterances = []
    for id, (number, location) in _two_columns(directory / "wav.scp").items():
        where = f"{directory / 'wav.scp'}, line {number}"
        if location.endswith("|"):
            raise DataError(
                f"{where}: {id} is a piped command; write it to a file, or use `lhotse kaldi import`"
            )
        if id not in texts:
            raise DataError(f"{where}: {id} has no line in {directory / 'text'}")
        speaker = speakers.get(id, (0, id))[1]
        path = (root or Path()) / location
        utterances.append(Utterance(id=id, path=path, text=texts[id][1], speaker=speaker, where=where))
    return utterances


def _two_columns(path: Path, *, empty: bool = False) -> dict[str, tuple[int, str]]:
    """Key -> (line number, rest of the line); the rest may be missing where `empty`."""
    rows: dict[str, tuple[int, str]] = {}
    for number, line in read_lines(path):
        key, *rest = line.strip().split(maxsplit=1)
        if not rest and not empty:
            raise DataError(f"{path}, line {number}: expected two fields, found {line!r}")
        if key in rows:
            raise DataError(f"{path}, line {number}: {key} stands already in line {rows[key][0]}")
        rows[key] = (number, rest[0] if rest else "")
    return rows


def to_cuts(utterances: Iterable[Utterance], *, language: str = "en", skip_bad: bool = False) -> CutSet:
    """Read the audio files' headers (in parallel) and make one cut for each utterance, in order of id.

    Raises:
        DataError: the utterances whose audio is missing or unreadable, unless `skip_bad` leaves them out with
            a warning.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda utterance: _to_cut(utterance, language), utterances))
    bad = [result for result in results if isinstance(result, str)]
    if bad and not skip_bad:
        more = f" (and {len(bad) - 5} more)" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} of {len(results)} audio files cannot be read: {'; '.join(bad[:5])}{more}; "
            "mend them, or leave them out with --skip-bad"
        )
    if bad:
        log.warning(
            "left out %d of %d audio files that cannot be read: %s", len(bad), len(results), "; ".join(bad)
        )
    return CutSet.from_cuts(
        sorted((result for result in results if not isinstance(result, str)), key=lambda cut: cut.id)
    )


def _to_cut(utterance: Utterance, language: str) -> MonoCut | str:
    path = utterance.path.absolute()
    where = f"{utterance.where}: " if utterance.where else ""
    if not path.is_file():
        return f"{where}{path} is missing"
    try:
        recording = Recording.from_file(path, recording_id=utterance.id)
    except Exception as error:  # Lhotse wraps whatever its backends raise in types of its own
        return f"{where}{path} is not audio ({type(error).__name__})"
    if recording.num_channels != 1:
        return f"{where}{path} has {recording.num_channels} channels, expected one"
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=recording.channel_ids[0],
        text=utterance.text,
        speaker=utterance.speaker,
        language=language,
    )
    return MonoCut(
        id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=recording.channel_ids[0],
        recording=recording,
        supervisions=[supervision],
    )


def speaker_of(cut: Cut) -> str:
    """The speaker of a cut's first supervision, or the cut's id where none is named."""
    return str((cut.supervisions[0].speaker if cut.supervisions else None) or cut.id)


def audio_files(cut: Cut) -> list[str]:
    """The paths of the audio files that a cut is made of; a mixed cut has several."""
    tracks = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    sources = [source for track in tracks if track.has_recording for source in track.recording.sources]
    return [str(source.source) for source in sources if source.type == "file"]


def hold_out(
    cuts: CutSet, *, utterances: int, group: Callable[[Cut], str] = speaker_of
) -> tuple[CutSet, CutSet]:
    """Split cuts into (rest, held out): whole groups (speakers) until about `utterances` are held out.

    The groups are taken in the order of a hash of their names, so the split depends on nothing else: a corpus
    with more speakers keeps those that a smaller part of it held out first. A group that overshoots by more
    than it falls short is passed over, and one group at least stays in the rest.
    """
    groups: dict[str, list[Cut]] = defaultdict(list)
    for cut in cuts:
        groups[group(cut)].append(cut)
    names = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    held: set[str] = set()
    count = 0
    for name in names[: len(names) - 1]:
        size = len(groups[name])
        if count < utterances and count + size - utterances <= utterances - count:
            held.add(name)
            count += size
    rest = CutSet.from_cuts(cut for cut in cuts if group(cut) not in held)
    return rest, CutSet.from_cuts(cut for cut in cuts if group(cut) in held)


def write_splits(splits: Mapping[str, CutSet], out: Path) -> None:
    """Write each split that is not empty to `out/NAME.jsonl.gz`, and log its hours, utterances and speakers.

    Raises:
        DataError: an id that stands twice, or a recording that stands in two splits.
    """
    owners: dict[str, str] = {}
    for name, cuts in splits.items():
        for cut in cuts:
            for key in (f"id {cut.id}", *sorted({f"audio file {path}" for path in audio_files(cut)})):
                if key in owners and (owners[key] != name or key.startswith("id")):
                    raise DataError(
                        f"the {key} stands in {owners[key]} and again in {name}; each may stand once"
                    )
                owners[key] = name
    out.mkdir(parents=True, exist_ok=True)
    for name, cuts in splits.items():
        if not len(cuts):
            log.warning("%s: no utterances, not written", name)
            continue
        cuts.to_file(out / f"{name}.jsonl.gz")
        hours = sum(cut.duration for cut in cuts) / 3600
        speakers = len({speaker_of(cut) for cut in cuts})
        log.info(
            "%s: %.2f h, %d utterances, %d speakers", out / f"{name}.jsonl.gz", hours, len(cuts), speakers
        )


def command_line(prepare: Callable[..., None], *, arguments: list[str] | None = None) -> None:
    """Run a recipe's `prepare(corpus, out, *, option=default, ...)` as a command: `prepare.py CORPUS OUT
    --option VALUE`.

    The options are the function's keyword parameters; a `False` default makes a switch, any other is a path.
    Errors of the corpus end the process with one line on stderr and status 1.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(prepare), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="the directory of the corpus")
    parser.add_argument("out", type=Path, help="the directory to write the manifests to")
    for name, parameter in list(inspect.signature(prepare).parameters.items())[2:]:
        options: dict[str, Any] = (
            {"action": "store_true"} if parameter.default is False else {"type": Path, "default": None}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    chosen = vars(parser.parse_args(arguments))
    corpus, out = chosen.pop("corpus"), chosen.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(corpus, out, **chosen)
    except RillError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
