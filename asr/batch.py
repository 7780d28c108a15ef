"""Transcribing many files for the command line: onto the screen, or into files beside them or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr import audio
from asr.errors import AudioError, ConfigError, DataError
from asr.paths import find_audio, outputs
from asr.search.config import SearchConfig
from asr.show import complain, progress, words

if TYPE_CHECKING:
    from asr.model import Model
    from asr.transcript import Transcript

__all__ = ["ALIGNMENTS", "FORMATS", "Job", "align", "run"]

FORMATS = ("txt", "json", "srt", "vtt")
ALIGNMENTS = ("textgrid", "ctm", "json")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    `formats` as in `json,srt`; None prints the text, or writes txt where `out` is given. `words` prints each word with
    its times.
    """

    audio: tuple[str, ...]
    latency_ms: int | None = None
    head: str | None = None
    search: SearchConfig | None = None
    words: bool = False
    formats: str | None = None
    out: Path | None = None
    batch_seconds: float = 120.0

    def kinds(self) -> tuple[str, ...]:
        """What to write; nothing where it is printed only. Raises ConfigError for a kind that does not exist."""
        if self.formats is None:
            return () if self.out is None else ("txt",)
        return _kinds(self.formats, FORMATS)


def _kinds(formats: str, known: Sequence[str]) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in formats.split(",")))
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"--format {formats}: {kind!r} is none of {', '.join(known)}")
    return kinds


def run(model: Model, job: Job) -> int:
    """Do the job; returns how many files could not be read. Each of them is reported when its turn comes.

    Raises DataError for a folder without audio, ConfigError for a format, latency or head that there is not.
    """
    from asr.transcribe import refused, transcribe_files

    kinds = job.kinds()
    for phrase, reason in refused(model, job.search):
        complain(f"phrase {phrase!r} cannot be boosted: {reason}")
    recordings = find_audio(job.audio)
    targets = {kind: outputs(recordings, out=job.out, suffix=kind) for kind in kinds}
    total = sum(_seconds(recording.path) for recording in recordings)
    done, failed = 0.0, 0
    with progress("transcribing", "s of audio") as move:

        def advance(seconds: float) -> None:
            nonlocal done
            done += seconds
            move(done, total)

        paths = [recording.path for recording in recordings]
        results = transcribe_files(
            model,
            paths,
            latency_ms=job.latency_ms,
            head=job.head,
            search=job.search,
            batch_seconds=job.batch_seconds,
            progress=advance,
        )
        for i, (path, result) in enumerate(results):
            if isinstance(result, AudioError):
                failed += 1
                complain(str(result))
                continue
            for kind in kinds:
                _write(result, kind, targets[kind][i])
            if job.words or not kinds:
                _print(result, path if len(paths) > 1 else None, with_words=job.words)
    if failed and len(paths) > 1:
        complain(f"{failed} of {len(paths)} files could not be read; the others are done")
    return failed


def align(
    model: Model, given: str, text: Path, *, formats: str, out: Path | None, batch_seconds: float
) -> int:
    """Write when the words of `text` were said; returns how many recordings could not be aligned, each reported.

    `given` is a recording and `text` its file, or both are folders, of `talk.wav` and `talk.txt`. Raises DataError.
    """
    from asr.align import align_files, to_ctm, to_textgrid

    kinds = _kinds(formats, ALIGNMENTS)
    recordings = find_audio([given])
    if text.is_dir():
        texts = [text / recording.place.with_suffix(".txt") for recording in recordings]
    elif len(recordings) == 1:
        texts = [text]
    else:
        raise DataError(
            f"{text}: {given} holds {len(recordings)} recordings; give a folder of texts for them"
        )
    try:
        pairs = [(r.path, t.read_text(encoding="utf-8-sig")) for r, t in zip(recordings, texts, strict=True)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the text of a recording cannot be read: {error}") from error
    targets = {
        kind: outputs(recordings, out=out, suffix="TextGrid" if kind == "textgrid" else kind)
        for kind in kinds
    }
    failed = 0
    for i, (path, result) in enumerate(align_files(model, pairs, batch_seconds=batch_seconds)):
        if isinstance(result, Exception):
            failed += 1
            message = str(result)
            complain(message if str(path) in message else f"{path}: {message}")
            continue
        ways = {
            "textgrid": to_textgrid(result),
            "ctm": to_ctm(result, Path(str(path)).stem),
            "json": result.to_json(),
        }
        for kind in kinds:
            target = targets[kind][i]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(ways[kind], encoding="utf-8")
            print(target)
    return failed


def _seconds(path: Path) -> float:
    try:
        return audio.info(path).duration
    except AudioError:
        return 0.0


def _write(transcript: Transcript, kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(getattr(transcript, f"to_{kind}")(), encoding="utf-8")


def _print(transcript: Transcript, path: object | None, *, with_words: bool) -> None:
    heading = "" if path is None else f"{path}: "
    body = f"\n{words(transcript)}\n" if with_words else ""
    print(f"{heading}{transcript.text}{body}")
