"""Verbs of the command that have to do with recordings; `asr.cli` names them. No logic of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr.options import BatchSeconds, Fast, Head, Model, argument, load_model, option

__all__ = ["align", "transcribe"]


def transcribe(
    audio: Annotated[
        list[str], argument("Files, folders or quoted patterns like 'calls/**/*.wav'.", metavar="AUDIO...")
    ],
    model: Model = None,
    fast: Fast = False,
    latency: Annotated[
        int | None, option("Decode as a live session of this latency. Default: full context.", metavar="MS")
    ] = None,
    head: Head = None,
    beam: Annotated[
        int | None, option("Beam search with N hypotheses. Default: greedy, the fastest.", metavar="N")
    ] = None,
    phrases: Annotated[
        Path | None, option("Names and terms to be recognised more readily, one a line.", metavar="FILE")
    ] = None,
    lm: Annotated[
        Path | None, option("N-gram language model, ARPA or KenLM; makes it a beam search.", metavar="FILE")
    ] = None,
    lm_scale: Annotated[float, option("How much it counts.", metavar="X")] = 0.3,
    words: Annotated[bool, option("Print each word with start, end and confidence.", "--words")] = False,
    formats: Annotated[
        str | None,
        option(
            "Write files: txt, json, srt, vtt, or several with commas.", "--format", "-f", metavar="KINDS"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option("Folder for these files. Default: beside the audio.", "--out", "-o", metavar="DIR"),
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Turn recordings of any length and format into text, or into files of text, JSON or subtitles.

    A file that cannot be read is reported, the others go on, and the exit status is 1.

    \b
    Examples:
      asr transcribe talk.wav --words
      asr transcribe calls/ --format json,srt --out texts/
      asr transcribe calls/ --beam 4 --phrases names.txt
    """
    from asr.batch import Job, run, search_of

    job = Job(
        audio=tuple(audio),
        latency_ms=latency,
        head=head,
        search=search_of(beam=beam, phrases=phrases, lm=lm, lm_scale=lm_scale),
        words=words,
        formats=formats,
        out=out,
        batch_seconds=batch_seconds,
    )
    if run(load_model(model, fast), job):
        raise typer.Exit(1)


def align(
    audio: Annotated[str, argument("A recording, or a folder of them.", metavar="AUDIO")],
    text: Annotated[
        Path, argument("Its text; for a folder, one of files of the same names: talk.txt.", metavar="TEXT")
    ],
    model: Model = None,
    formats: Annotated[
        str, option("textgrid, ctm, json, or several with commas.", "--format", "-f", metavar="KINDS")
    ] = "textgrid",
    out: Annotated[
        Path | None,
        option("Folder for these files. Default: beside the audio.", "--out", "-o", metavar="DIR"),
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Find when each word of a known text was said. Needs a model with a CTC head.

    \b
    Example:
      asr align talk.wav talk.txt --format textgrid,ctm
    """
    from asr.batch import align as run

    if run(load_model(model, False), audio, text, formats=formats, out=out, batch_seconds=batch_seconds):
        raise typer.Exit(1)
