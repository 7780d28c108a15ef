"""What people keep speech and its texts in -> utterances: tables, Kaldi directories, folders, Hugging Face datasets."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asr.dataset.corpus import Utterance, require
from asr.errors import ConfigError, DataError
from asr.paths import AUDIO_SUFFIXES

__all__ = ["TABLES", "from_folder", "from_hugging_face", "from_kaldi", "from_table", "read_lines"]

TABLES = (".tsv", ".csv", ".jsonl", ".json", ".list")
"""Suffixes of tables; of JSON there is one object a line."""

COLUMNS = {
    "path": ("path", "audio", "audio_filepath", "audio_path", "file", "filename", "wav"),
    "text": ("text", "sentence", "transcript", "transcription", "txt"),
    "id": ("id", "utt_id", "key"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "start": ("start", "offset", "begin_time"),
    "duration": ("duration",),
    "end": ("end", "end_time"),
}
"""What each field is called in tables that people have: NeMo's, WeNet's, Common Voice's among them."""


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
    """Read a table: .tsv or .csv with a header, or an object a line of .jsonl. `COLUMNS` names what is read of it.

    Needed are path and text. The id is by default the path without its suffix, "/" as "-"; the speaker
    `speaker(path)`, else "unknown"; start, and duration or end, are seconds. Paths are relative to `root`, by default
    the table's folder. A last line without its newline is left out where the table is still `growing`.

    Raises:
        DataError: a missing column, a line with too few fields or without a number where one belongs, by its number.
    """
    root = table.parent if root is None else root
    utterances = []
    for number, row in _rows(table, growing=growing):
        where = f"{table}, line {number}"
        path = row["path"]
        begin, until = _seconds(row, "start", where) or 0.0, _seconds(row, "end", where)
        # Tables of whole files often state a duration that is rounded: it counts where a start is given, too.
        length = _seconds(row, "duration", where) if "start" in row else None
        stem = os.path.splitext(path)[0].strip("/").replace("/", "-")
        utterances.append(
            Utterance(
                id=row.get("id") or (f"{stem}-{number}" if begin or until else stem),
                path=root / path,
                text=row["text"],
                speaker=row.get("speaker") or (speaker(path) if speaker else "unknown"),
                start=begin,
                duration=until - begin if until is not None else length,
                where=where,
            )
        )
    return utterances


def _rows(table: Path, *, growing: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each line, under our names of `COLUMNS`."""
    lines = read_lines(table, growing=growing)
    if table.suffix not in (".tsv", ".csv"):
        for number, line in lines:
            try:
                found = json.loads(line)
            except ValueError as error:
                raise DataError(f"{table}, line {number}: no JSON object ({error})") from error
            if not isinstance(found, dict):
                raise DataError(f"{table}, line {number}: expected a JSON object, found {line[:40]!r}")
            row = _renamed({name: str(value) for name, value in found.items() if value is not None})
            if not {"path", "text"} <= row.keys():
                raise DataError(
                    f"{table}, line {number}: expected the keys path and text, found {list(found)}"
                )
            yield number, row
        return
    split: Callable[[str], list[str]] = (
        (lambda line: line.split("\t")) if table.suffix == ".tsv" else (lambda line: next(csv.reader([line])))
    )
    columns = split(next(lines, (1, ""))[1])
    if not {"path", "text"} <= _renamed(dict.fromkeys(columns, "")).keys():
        raise DataError(f"{table}, line 1: expected a header with the columns path and text, found {columns}")
    for number, line in lines:
        fields = split(line)
        if len(fields) != len(columns):
            raise DataError(
                f"{table}, line {number}: {len(fields)} fields, but the header names {len(columns)}: {columns}"
            )
        yield number, _renamed(dict(zip(columns, fields, strict=True)))


def _renamed(row: dict[str, str]) -> dict[str, str]:
    known = {field: next((name for name in names if name in row), None) for field, names in COLUMNS.items()}
    return {field: row[name] for field, name in known.items() if name is not None}


def _seconds(row: dict[str, str], field: str, where: str) -> float | None:
    if not row.get(field):
        return None
    try:
        return float(row[field])
    except ValueError:
        raise DataError(f"{where}: {field} is {row[field]!r}, expected seconds") from None


def from_kaldi(directory: Path, *, root: Path | None = None) -> list[Utterance]:
    """Read a Kaldi data directory: `wav.scp` and `text`, `segments` and `utt2spk` where there are any.

    Paths in `wav.scp` are relative to `root`, by default the working directory, as in Kaldi.

    Raises:
        DataError: a missing file, a line without its fields, an utterance without text or recording, a piped command.
    """
    require(directory, "wav.scp", "text", name="Kaldi data directory")
    texts = _two_columns(directory / "text", empty=True)
    speakers = _two_columns(directory / "utt2spk") if (directory / "utt2spk").exists() else {}
    places = _two_columns(directory / "wav.scp")
    for id, (number, location) in places.items():
        if location.endswith("|"):
            raise DataError(
                f"{directory / 'wav.scp'}, line {number}: {id} is a piped command; write what it gives to a file"
            )
    utterances = []
    for id, recording, begin, length, where in _segments(directory, places):
        if id not in texts:
            raise DataError(f"{where}: {id} has no line in {directory / 'text'}")
        utterances.append(
            Utterance(
                id=id,
                path=(root or Path()) / places[recording][1],
                text=texts[id][1],
                speaker=speakers.get(id, (0, id))[1],
                start=begin,
                duration=length,
                where=where,
            )
        )
    return utterances


def _segments(
    directory: Path, places: dict[str, tuple[int, str]]
) -> Iterator[tuple[str, str, float, float | None, str]]:
    """Utterance, recording, start, duration and line of each utterance of a Kaldi directory."""
    table = directory / "segments"
    if not table.exists():
        for id, (number, _) in places.items():
            yield id, id, 0.0, None, f"{directory / 'wav.scp'}, line {number}"
        return
    for id, (number, line) in _two_columns(table).items():
        where = f"{table}, line {number}"
        try:
            recording, begin, end = line.split()
            start, duration = float(begin), float(end) - float(begin)
        except ValueError:
            raise DataError(f"{where}: expected UTTERANCE RECORDING START END, found {line!r}") from None
        if recording not in places:
            raise DataError(f"{where}: the recording {recording} has no line in {directory / 'wav.scp'}")
        yield id, recording, start, duration, where


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


def from_folder(folder: Path, *, root: Path | None = None, skip_bad: bool = False) -> list[Utterance]:
    """Read a folder of audio files, each with its text beside it: `talk.wav` and `talk.txt`.

    A folder inside is taken for the speaker of what is in it. An id is the path from `root` on, by default `folder`.

    Raises:
        DataError: no audio, or (unless `skip_bad`) files without a text, by name.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    silent = [path for path in files if not path.with_suffix(".txt").is_file()]
    if not files or (silent and not skip_bad):
        what = (
            f"{len(silent)} of {len(files)} audio files have no text beside them, {silent[0]} among them; write "
            f"{silent[0].stem}.txt, or go on with --skip-bad"
            if files
            else "no audio is in it (with its text beside it: talk.wav and talk.txt)"
        )
        raise DataError(f"{folder}: {what}")
    utterances = []
    for path in files:
        if path not in silent:
            place = path.relative_to(folder)
            text = " ".join(line for _, line in read_lines(path.with_suffix(".txt")))
            speaker = "unknown" if place.parent == Path() else place.parent.as_posix()
            id = path.relative_to(root or folder).with_suffix("").as_posix().replace("/", "-")
            utterances.append(Utterance(id=id, path=path, text=text, speaker=speaker, where=str(path)))
    return utterances


def from_hugging_face(folder: Path, out: Path) -> dict[str, list[Utterance]]:
    """The splits of a dataset that Hugging Face's `datasets` has saved to disk; audio inside it is written below `out`.

    Raises:
        ConfigError: `datasets` is not installed.
        DataError: the folder is no such dataset, or has no columns of audio and text.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("a Hugging Face dataset is read with: pip install rill-asr[huggingface]") from error
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is no dataset that `datasets` has saved: {error}") from error
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    return {str(name): _from_dataset(split, folder, out / str(name)) for name, split in splits.items()}


def _from_dataset(split: Any, folder: Path, out: Path) -> list[Utterance]:
    import datasets

    audio = next((n for n, f in split.features.items() if isinstance(f, datasets.Audio)), None)
    columns = _renamed({name: name for name in split.column_names})
    if audio is None or "text" not in columns:
        raise DataError(f"{folder}: expected a column of audio and one of text, found {split.column_names}")
    utterances = []
    for number, row in enumerate(split.cast_column(audio, datasets.Audio(decode=False))):
        data, named = row[audio]["bytes"], Path(row[audio]["path"] or f"{number:08}.wav")
        id = str(row[columns["id"]]) if "id" in columns else f"{number:08}-{named.stem}"
        path = named if data is None else out / f"{id.replace('/', '-')}{named.suffix}"
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        speaker = str(row[columns["speaker"]]) if "speaker" in columns else "unknown"
        text = str(row[columns["text"]] or "")
        where = f"{folder}, row {number}"
        utterances.append(Utterance(id=id, path=path, text=text, speaker=speaker, where=where))
    return utterances
