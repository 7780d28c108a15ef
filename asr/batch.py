"""Transcribing many files for the command line: onto the screen, or into files beside them or in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr import audio
from asr.errors import AudioError, ConfigError
from asr.paths import find_audio, outputs
from asr.show import complain, progress, words

if TYPE_CHECKING:
    from asr.model import Model
    from asr.transcript import Transcript

__all__ = ["FORMATS", "Job", "run"]

FORMATS = ("txt", "json", "srt", "vtt")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    `formats` as in `json,srt`; None prints the text, or writes txt where `out` is given. `words` prints each word with
    its times.
    """

    audio: tuple[str, ...]
    latency_ms: int | None = None
    head: str | None = None
    words: bool = False
    formats: str | None = None
    out: Path | None = None
    batch_seconds: float = 120.0

    def kinds(self) -> tuple[str, ...]:
        """What to write; nothing where it is printed only. Raises ConfigError for a kind that does not exist."""
        if self.formats is None:
            return () if self.out is None else ("txt",)
        kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in self.formats.split(",")))
        for kind in kinds:
            if kind not in FORMATS:
                raise ConfigError(f"--format {self.formats}: {kind!r} is none of {', '.join(FORMATS)}")
        return kinds


def run(model: Model, job: Job) -> int:
    """Do the job; returns how many files could not be read. Each of them is reported when its turn comes.

    Raises DataError for a folder without audio, ConfigError for a format, latency or head that there is not.
    """
    from asr.transcribe import transcribe_files

    kinds = job.kinds()
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
